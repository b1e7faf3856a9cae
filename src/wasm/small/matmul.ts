// The matrix product, in the manner of prefill: eight columns of b at a time are packed as [inner][8], up to
// 256 deep (8 kB, in the first-level cache), and a micro-kernel broadcasts elements of six rows of a against
// them: 6 × 8 sums in 12 registers. Fewer than six rows: each streams b, 32 columns at a time.

import * as at from "../layout";
import { fma, splat } from "../simd";
import { noTask, takeTask } from "../tasks";

const innerBlock: u32 = 256;


export function matmul(job: usize, scratch: usize, thread: u32): void {
  const rows = load<u32>(job + at.matmulRows);
  const inner = load<u32>(job + at.matmulInner);
  const columns = load<u32>(job + at.matmulColumns);
  const taskRows = load<u32>(job + at.matmulTaskRows);
  const taskColumns = load<u32>(job + at.matmulTaskColumns);
  const across = load<u32>(job + at.matmulTasksAcross);
  const perMatrix = load<u32>(job + at.matmulTasksDown) * across;
  for (;;) {
    const task = takeTask(job, thread);
    if (task === noTask) return;
    const matrix = task / perMatrix;
    const row = ((task % perMatrix) / across) * taskRows;
    const column = (task % across) * taskColumns;
    const a = load<u32>(job + at.matmulA) + 4 * matrix * rows * inner;
    const b = load<u32>(job + at.matmulB) + 4 * matrix * inner * columns;
    const output = load<u32>(job + at.matmulOutput) + 4 * matrix * rows * columns;
    const rowEnd = min(row + taskRows, rows);
    const columnEnd = min(column + taskColumns, columns);
    if (rows < 6)
      for (let i = row; i < rowEnd; i++)
        multiplyRow(a + 4 * i * inner, b, output + 4 * i * columns, inner, columns, column, columnEnd);
    else multiplyBlock(a, b, output, inner, columns, row, rowEnd, column, columnEnd, scratch);
  }
}

function multiplyBlock(
  a: usize,
  b: usize,
  output: usize,
  inner: u32,
  columns: u32,
  row: u32,
  rowEnd: u32,
  column: u32,
  columnEnd: u32,
  scratch: usize,
): void {
  const tile = scratch + innerBlock * 32;
  for (let j = column; j < columnEnd; j += 8) {
    const width = min(8, columnEnd - j);
    for (let k: u32 = 0; k < inner; k += innerBlock) {
      const depth = min(innerBlock, inner - k);
      pack(scratch, b + 4 * (k * columns + j), columns, depth, width);
      for (let i = row; i < rowEnd; i += 6) {
        sixRows(a + 4 * (i * inner + k), 4 * inner, min(6, rowEnd - i), scratch, depth, tile);
        for (let r: u32 = 0; r < min(6, rowEnd - i); r++) {
          const to = output + 4 * ((i + r) * columns + j);
          const from = tile + (r << 5);
          if (width === 8) {
            let x = v128.load(from);
            let y = v128.load(from, 16);
            if (k > 0) {
              x = f32x4.add(x, v128.load(to));
              y = f32x4.add(y, v128.load(to, 16));
            }
            v128.store(to, x);
            v128.store(to, y, 16);
          } else
            for (let c: u32 = 0; c < width << 2; c += 4)
              store<f32>(to + c, load<f32>(from + c) + (k > 0 ? load<f32>(to + c) : 0));
        }
      }
    }
  }
}

function pack(to: usize, from: usize, columns: u32, depth: u32, width: u32): void {
  for (let k: u32 = 0; k < depth; k++, to += 32, from += columns << 2) {
    if (width === 8) {
      v128.store(to, v128.load(from));
      v128.store(to, v128.load(from, 16), 16);
    } else
      for (let c: u32 = 0; c < 8; c++)
        store<f32>(to + (c << 2), c < width ? load<f32>(from + (c << 2)) : 0);
  }
}

/** Of fewer than six rows, the last is computed again. */
function sixRows(a: usize, stride: u32, rows: u32, panel: usize, depth: u32, to: usize): void {
  const last = a + (rows - 1) * stride;
  let r0 = a;
  let r1 = min(a + stride, last);
  let r2 = min(a + 2 * stride, last);
  let r3 = min(a + 3 * stride, last);
  let r4 = min(a + 4 * stride, last);
  let r5 = last;
  let a0 = splat(0);
  let b0 = splat(0);
  let a1 = splat(0);
  let b1 = splat(0);
  let a2 = splat(0);
  let b2 = splat(0);
  let a3 = splat(0);
  let b3 = splat(0);
  let a4 = splat(0);
  let b4 = splat(0);
  let a5 = splat(0);
  let b5 = splat(0);
  const end = panel + (depth << 5);
  for (let p = panel; p < end; p += 32) {
    const x = v128.load(p);
    const y = v128.load(p, 16);
    let s = v128.load32_splat(r0);
    a0 = fma(s, x, a0);
    b0 = fma(s, y, b0);
    s = v128.load32_splat(r1);
    a1 = fma(s, x, a1);
    b1 = fma(s, y, b1);
    s = v128.load32_splat(r2);
    a2 = fma(s, x, a2);
    b2 = fma(s, y, b2);
    s = v128.load32_splat(r3);
    a3 = fma(s, x, a3);
    b3 = fma(s, y, b3);
    s = v128.load32_splat(r4);
    a4 = fma(s, x, a4);
    b4 = fma(s, y, b4);
    s = v128.load32_splat(r5);
    a5 = fma(s, x, a5);
    b5 = fma(s, y, b5);
    r0 += 4;
    r1 += 4;
    r2 += 4;
    r3 += 4;
    r4 += 4;
    r5 += 4;
  }
  v128.store(to, a0);
  v128.store(to, b0, 16);
  v128.store(to, a1, 32);
  v128.store(to, b1, 48);
  v128.store(to, a2, 64);
  v128.store(to, b2, 80);
  v128.store(to, a3, 96);
  v128.store(to, b3, 112);
  v128.store(to, a4, 128);
  v128.store(to, b4, 144);
  v128.store(to, a5, 160);
  v128.store(to, b5, 176);
}

function multiplyRow(
  a: usize,
  b: usize,
  output: usize,
  inner: u32,
  columns: u32,
  column: u32,
  columnEnd: u32,
): void {
  let j = column;
  const rowBytes = columns << 2;
  const aEnd = a + (inner << 2);
  for (; j + 16 <= columnEnd; j += 16) {
    let s0 = splat(0);
    let s1 = splat(0);
    let s2 = splat(0);
    let s3 = splat(0);
    let from = b + (j << 2);
    for (let k = a; k < aEnd; k += 4, from += rowBytes) {
      const x = v128.load32_splat(k);
      s0 = fma(x, v128.load(from), s0);
      s1 = fma(x, v128.load(from, 16), s1);
      s2 = fma(x, v128.load(from, 32), s2);
      s3 = fma(x, v128.load(from, 48), s3);
    }
    const to = output + (j << 2);
    v128.store(to, s0);
    v128.store(to, s1, 16);
    v128.store(to, s2, 32);
    v128.store(to, s3, 48);
  }
  for (; j < columnEnd; j++) {
    let sum: f32 = 0;
    let from = b + (j << 2);
    for (let k = a; k < aEnd; k += 4, from += rowBytes) sum += load<f32>(k) * load<f32>(from);
    store<f32>(output + (j << 2), sum);
  }
}
