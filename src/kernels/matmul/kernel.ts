import { defineKernel, foldWorkgroups, type TensorShape } from "../../devices/kernel.ts";
import { refuse } from "../../errors.ts";
import { elementCount } from "../../tensor/shape.ts";
import { checkFloat32 } from "../checks.ts";
import { type MatmulTiles, matmulBytes, matmulWGSL } from "./matmul.wgsl.ts";

/** Every choice of {@link selectMatmul}, by name; all fit WebGPU's default limits. */
export const matmulTiles = {
  wideRow: { tileRows: 1, tileColumns: 256, tileInner: 8, laneRows: 1, slices: 4 },
  narrowRow: { tileRows: 1, tileColumns: 64, tileInner: 32, laneRows: 1, slices: 16 },
  flat: { tileRows: 16, tileColumns: 64, tileInner: 16, laneRows: 4, slices: 1 },
  square: { tileRows: 64, tileColumns: 64, tileInner: 16, laneRows: 4, slices: 1 },
} as const satisfies Record<string, MatmulTiles>;

/**
 * The tiles for a product of `rows` × `columns` outputs. One row: tiles of one row, so that no lane
 * computes a row that is not there; narrow ones unless the columns alone give many workgroups. A few
 * rows: flat tiles. Else square ones, which read each operand the fewest times.
 */
export function selectMatmul(rows: number, columns: number): keyof typeof matmulTiles {
  if (rows === 1) return columns >= 16384 ? "wideRow" : "narrowRow";
  return rows <= 32 ? "flat" : "square";
}

interface Sizes {
  readonly batch: number;
  readonly rows: number;
  readonly inner: number;
  readonly columns: number;
}

function sizes(a: TensorShape, b: TensorShape): Sizes {
  const [rows, inner] = a.shape.slice(-2) as [number, number];
  return { batch: elementCount(a.shape.slice(0, -2)), rows, inner, columns: b.shape.at(-1)! };
}

/**
 * The matrix product: `a` float32 `[…, m, k]` times `b` float32 `[…, k, n]` into `output` float32
 * `[…, m, n]`, the leading axes equal. Any sizes; accumulated in float32 or better.
 */
export const matmul = defineKernel({
  name: "matmul",
  tensors: { a: "read", b: "read", output: "write" },
  uniforms: {
    rows: "u32",
    columns: "u32",
    inner: "u32",
    tilesAcross: "u32",
    tilesPerMatrix: "u32",
    tiles: "u32",
    gridWidth: "u32",
  },
  check({ a, b, output }) {
    checkFloat32("matmul", { a, b, output });
    const rank = a.shape.length;
    if (rank < 2 || b.shape.length !== rank || output.shape.length !== rank)
      refuse(
        "matmul",
        "a, b and output must have one rank of 2 or more",
        [a, b, output].map(({ shape }) => [...shape]),
      );
    const { rows, inner, columns } = sizes(a, b);
    const batch = a.shape.slice(0, -2);
    const expected = { b: [...batch, inner, columns], output: [...batch, rows, columns] };
    for (const [name, { shape }] of Object.entries({ b, output })) {
      const wanted = expected[name as "b" | "output"];
      if (!wanted.every((length, axis) => length === shape[axis]))
        refuse(
          "matmul",
          `${name} must have shape [${wanted.join(", ")}] for a of [${a.shape.join(", ")}]`,
          [...shape],
        );
    }
  },
  webgpu({ tensors: { a, b }, capabilities }) {
    const { batch, rows, inner, columns } = sizes(a, b);
    const name = selectMatmul(rows, columns);
    const tiles = matmulTiles[name];
    const tilesAcross = Math.ceil(columns / tiles.tileColumns);
    const tilesPerMatrix = tilesAcross * Math.ceil(rows / tiles.tileRows);
    const [gridWidth, gridHeight] = foldWorkgroups(tilesPerMatrix * batch, capabilities);
    return {
      wgsl: matmulWGSL(tiles),
      variant: `${tiles.tileRows}×${tiles.tileColumns} tiles, ${tiles.tileInner} deep, ${tiles.laneRows}×4 a lane${tiles.slices > 1 ? `, ${tiles.slices} slices` : ""}`,
      workgroups: [gridWidth, gridHeight, 1],
      workgroupBytes: matmulBytes(tiles),
      uniforms: {
        rows,
        columns,
        inner,
        tilesAcross,
        tilesPerMatrix,
        tiles: tilesPerMatrix * batch,
        gridWidth,
      },
    };
  },
  wasm({ a, b }) {
    const { batch, rows, inner, columns } = sizes(a, b);
    // A task's rows of a and columns of b are read from the second-level cache.
    const [taskRows, taskColumns] = rows < 6 ? [rows, 128] : [96, 64];
    const [down, across] = [Math.ceil(rows / taskRows), Math.ceil(columns / taskColumns)];
    return {
      function: "matmul",
      tasks: batch * down * across,
      work: batch * rows * inner * columns,
      scratch: 256 * 32 + 6 * 32, // a packed panel and a tile
      words: [
        ...[{ tensor: "a" }, { tensor: "b" }, { tensor: "output" }, rows, inner, columns],
        ...[taskRows, taskColumns, down, across],
      ],
    };
  },
  cpu({ a, b, output }) {
    const { batch, rows, inner, columns } = sizes(a, b);
    const row = new Float64Array(columns);
    for (let i = 0; i < batch * rows; i++) {
      const bStart = Math.floor(i / rows) * inner * columns;
      row.fill(0);
      for (let k = 0; k < inner; k++) {
        const factor = a.data[i * inner + k]!;
        const at = bStart + k * columns;
        for (let j = 0; j < columns; j++) row[j]! += factor * b.data[at + j]!;
      }
      output.data.set(row, i * columns);
    }
  },
});
