// The small kernels that go by rows: softmax, transpose, permute, and arithmetic by elements.

import * as at from "../layout";
import { exp, exp1, larger, largest, splat, sum, transpose4 } from "../simd";
import { noTask, takeTask } from "../tasks";

export function softmax(job: usize, _scratch: usize, thread: u32): void {
  const rows = load<u32>(job + at.softmaxRows);
  const columns = load<u32>(job + at.softmaxColumns);
  const taskRows = load<u32>(job + at.softmaxTaskRows);
  for (;;) {
    const task = takeTask(job, thread);
    if (task === noTask) return;
    const end = min((task + 1) * taskRows, rows);
    for (let row = task * taskRows; row < end; row++) {
      const start = 4 * row * columns;
      softmaxRow(load<u32>(job + at.softmaxInput) + start, load<u32>(job + at.softmaxOutput) + start, columns);
    }
  }
}

/** A row of −∞ gives zeros. */
function softmaxRow(input: usize, output: usize, columns: u32): void {
  const bytes = columns << 2;
  const whole = bytes & ~15;
  let i: u32 = 0;
  let most = splat(-Infinity);
  for (; i < whole; i += 16) most = larger(most, v128.load(input + i));
  let maximum = largest(most);
  for (; i < bytes; i += 4) {
    const x = load<f32>(input + i);
    if (x > maximum) maximum = x;
  }
  maximum = max(maximum, -f32.MAX_VALUE);
  const subtract = splat(maximum);
  let sums = splat(0);
  for (i = 0; i < whole; i += 16) {
    const weight = exp(f32x4.sub(v128.load(input + i), subtract));
    v128.store(output + i, weight);
    sums = f32x4.add(sums, weight);
  }
  let total = sum(sums);
  for (; i < bytes; i += 4) {
    const weight = exp1(load<f32>(input + i) - maximum);
    store<f32>(output + i, weight);
    total += weight;
  }
  const factor: f32 = total === 0 ? 0 : 1 / total;
  for (i = 0; i < whole; i += 16)
    v128.store(output + i, f32x4.mul(v128.load(output + i), splat(factor)));
  for (; i < bytes; i += 4) store<f32>(output + i, load<f32>(output + i) * factor);
}

export function transpose(job: usize, _scratch: usize, thread: u32): void {
  const rows = load<u32>(job + at.transposeRows);
  const columns = load<u32>(job + at.transposeColumns);
  const strips = (rows + 31) / 32;
  const rowBytes = columns << 2;
  const columnBytes = rows << 2;
  for (;;) {
    const task = takeTask(job, thread);
    if (task === noTask) return;
    const matrix = 4 * (task / strips) * rows * columns;
    const input = load<u32>(job + at.transposeInput) + matrix;
    const output = load<u32>(job + at.transposeOutput) + matrix;
    const first = (task % strips) * 32;
    const end = min(first + 32, rows);
    let c: u32 = 0;
    for (; c + 4 <= columns; c += 4) {
      let r = first;
      for (; r + 4 <= end; r += 4) {
        const from = input + r * rowBytes + (c << 2);
        transpose4(
          output + c * columnBytes + (r << 2),
          columnBytes,
          v128.load(from),
          v128.load(from + rowBytes),
          v128.load(from + 2 * rowBytes),
          v128.load(from + 3 * rowBytes),
        );
      }
      for (; r < end; r++)
        for (let i: u32 = 0; i < 4; i++) moveOne(input, output, r, c + i, rowBytes, columnBytes);
    }
    for (; c < columns; c++)
      for (let r = first; r < end; r++) moveOne(input, output, r, c, rowBytes, columnBytes);
  }
}

@inline
function moveOne(input: usize, output: usize, r: u32, c: u32, rowBytes: u32, columnBytes: u32): void {
  store<u32>(output + c * columnBytes + (r << 2), load<u32>(input + r * rowBytes + (c << 2)));
}

export function permute(job: usize, _scratch: usize, thread: u32): void {
  const length1 = load<u32>(job + at.permuteLength1);
  const length2 = load<u32>(job + at.permuteLength2);
  const length3 = load<u32>(job + at.permuteLength3);
  const stride2 = load<u32>(job + at.permuteStride2);
  const stride3 = load<u32>(job + at.permuteStride3);
  for (;;) {
    const task = takeTask(job, thread);
    if (task === noTask) return;
    const start =
      (task / length1) * load<u32>(job + at.permuteStride0) +
      (task % length1) * load<u32>(job + at.permuteStride1);
    let from = load<u32>(job + at.permuteInput) + (start << 2);
    let to = load<u32>(job + at.permuteOutput) + 4 * task * length2 * length3;
    for (let i: u32 = 0; i < length2; i++, from += stride2 << 2, to += length3 << 2) {
      if (stride3 === 1) memory.copy(to, from, length3 << 2);
      else
        for (let j: u32 = 0; j < length3; j++)
          store<u32>(to + (j << 2), load<u32>(from + ((j * stride3) << 2)));
    }
  }
}

export function elementwise(job: usize, _scratch: usize, thread: u32): void {
  const operation = load<u32>(job + at.elementwiseOperation);
  const count = load<u32>(job + at.elementwiseCount);
  const taskCount = load<u32>(job + at.elementwiseTaskCount);
  const factor = load<f32>(job + at.elementwiseFactor);
  const a = load<u32>(job + at.elementwiseA);
  const b = load<u32>(job + at.elementwiseB);
  const output = load<u32>(job + at.elementwiseOutput);
  for (;;) {
    const task = takeTask(job, thread);
    if (task === noTask) return;
    const start = task * taskCount;
    const length = min(taskCount, count - start);
    if (operation === 3) {
      memory.copy(output + start, a + start, length);
      continue;
    }
    const x = a + (start << 2);
    const y = b + (start << 2);
    const to = output + (start << 2);
    const bytes = length << 2;
    const whole = bytes & ~15;
    let i: u32 = 0;
    if (operation === 0) {
      for (; i < whole; i += 16) v128.store(to + i, f32x4.mul(v128.load(x + i), splat(factor)));
      for (; i < bytes; i += 4) store<f32>(to + i, load<f32>(x + i) * factor);
    } else if (operation === 1) {
      for (; i < whole; i += 16) v128.store(to + i, f32x4.mul(v128.load(x + i), v128.load(y + i)));
      for (; i < bytes; i += 4) store<f32>(to + i, load<f32>(x + i) * load<f32>(y + i));
    } else {
      for (; i < whole; i += 16) v128.store(to + i, f32x4.add(v128.load(x + i), v128.load(y + i)));
      for (; i < bytes; i += 4) store<f32>(to + i, load<f32>(x + i) + load<f32>(y + i));
    }
  }
}
