import { defineKernel, foldWorkgroups, type TensorShape } from "../../devices/kernel.ts";
import { refuse } from "../../errors.ts";
import { elementCount, type Shape, sameShape } from "../../tensor/shape.ts";
import { checkFloat32 } from "../checks.ts";
import { permuteWGSL } from "./permute.wgsl.ts";
import { mostWorkgroups, tileBytes, tileSize, transposeWGSL } from "./transpose.wgsl.ts";

/** The sizes of a batch of matrices `[…, rows, columns]`. */
function matrixSizes(shape: Shape): { batch: number; rows: number; columns: number } {
  const [rows = 1, columns = 1] = shape.slice(-2);
  return { batch: elementCount(shape.slice(0, -2)), rows, columns };
}

/**
 * Swaps the last two axes: `input` float32 `[…, rows, columns]` into `output` float32
 * `[…, columns, rows]`. Any sizes.
 *
 * Method: tiles through padded workgroup memory (M. Harris, "An Efficient Matrix Transpose in CUDA
 * C/C++", NVIDIA 2013).
 */
export const transpose = defineKernel({
  name: "transpose",
  tensors: { input: "read", output: "write" },
  uniforms: {
    rows: "u32",
    columns: "u32",
    tilesAcross: "u32",
    tilesPerMatrix: "u32",
    tiles: "u32",
  },
  check({ input, output }) {
    checkFloat32("transpose", { input, output });
    const { shape } = input;
    if (shape.length < 2) refuse("transpose", "input must have two axes or more", [...shape]);
    const swapped = [...shape.slice(0, -2), ...shape.slice(-2).reverse()];
    if (!sameShape(output.shape, swapped))
      refuse("transpose", `output must have shape [${swapped.join(", ")}]`, [...output.shape]);
  },
  webgpu({ tensors: { input } }) {
    const { batch, rows, columns } = matrixSizes(input.shape);
    const tilesAcross = Math.ceil(columns / tileSize);
    const tilesPerMatrix = tilesAcross * Math.ceil(rows / tileSize);
    const tiles = tilesPerMatrix * batch;
    return {
      wgsl: transposeWGSL,
      variant: `${tileSize}×${tileSize} tiles`,
      workgroups: [Math.min(tiles, mostWorkgroups), 1, 1],
      workgroupBytes: tileBytes,
      uniforms: { rows, columns, tilesAcross, tilesPerMatrix, tiles },
    };
  },
  wasm({ input }) {
    const { batch, rows, columns } = matrixSizes(input.shape);
    return {
      function: "transpose",
      tasks: batch * Math.ceil(rows / 32),
      work: batch * rows * columns,
      scratch: 0,
      words: [{ tensor: "input" }, { tensor: "output" }, rows, columns],
    };
  },
  cpu({ input, output }) {
    const { batch, rows, columns } = matrixSizes(input.shape);
    const [from, to] = [input.data, output.data];
    // In blocks, so that both sides stay in the cache.
    for (let start = 0; start < batch * rows * columns; start += rows * columns)
      for (let row0 = 0; row0 < rows; row0 += 32)
        for (let column0 = 0; column0 < columns; column0 += 32) {
          const [rowEnd, columnEnd] = [Math.min(row0 + 32, rows), Math.min(column0 + 32, columns)];
          for (let column = column0; column < columnEnd; column++)
            for (let row = row0; row < rowEnd; row++)
              to[start + column * rows + row] = from[start + row * columns + column]!;
        }
  },
});

interface Walk {
  readonly lengths: readonly [number, number, number, number];
  readonly strides: readonly [number, number, number, number];
}

/** The output's axes as at most four, with the input's strides along them. */
function walk(input: TensorShape, permutation: readonly number[]): Walk {
  const inputStrides = input.shape.map((_, axis) => elementCount(input.shape.slice(axis + 1)));
  const lengths: number[] = [];
  const strides: number[] = [];
  for (const axis of permutation) {
    const [length, stride] = [input.shape[axis]!, inputStrides[axis]!];
    if (length === 1) continue;
    const last = lengths.length - 1;
    if (last >= 0 && strides[last] === stride * length) {
      lengths[last]! *= length;
      strides[last] = stride;
    } else {
      lengths.push(length);
      strides.push(stride);
    }
  }
  if (lengths.length > 4)
    refuse("permute", "permutation must be of four groups of axes at most", [...permutation]);
  while (lengths.length < 4) {
    lengths.unshift(1);
    strides.unshift(0);
  }
  return { lengths, strides } as unknown as Walk;
}

/** Moves axes: axis i of `output` is axis `permutation[i]` of `input`; float32, any sizes. */
export const permute = defineKernel({
  name: "permute",
  tensors: { input: "read", output: "write" },
  uniforms: {
    length1: "u32",
    length2: "u32",
    length3: "u32",
    stride0: "u32",
    stride1: "u32",
    stride2: "u32",
    stride3: "u32",
    count: "u32",
    gridWidth: "u32",
  },
  check({ input, output }, { permutation }: { readonly permutation: readonly number[] }) {
    checkFloat32("permute", { input, output });
    const axes = [...permutation].sort((a, b) => a - b);
    if (axes.length !== input.shape.length || !axes.every((axis, i) => axis === i))
      refuse("permute", "permutation must hold each axis of input once", [...permutation]);
    const moved = permutation.map((axis) => input.shape[axis]!);
    if (!sameShape(output.shape, moved))
      refuse("permute", `output must have shape [${moved.join(", ")}]`, [...output.shape]);
    walk(input, permutation);
  },
  webgpu({ tensors: { input }, parameters: { permutation }, capabilities }) {
    const { lengths, strides } = walk(input, permutation);
    const count = elementCount(input.shape);
    const [gridWidth, gridHeight] = foldWorkgroups(Math.ceil(count / 256), capabilities);
    return {
      wgsl: permuteWGSL,
      workgroups: [gridWidth, gridHeight, 1],
      uniforms: {
        length1: lengths[1],
        length2: lengths[2],
        length3: lengths[3],
        stride0: strides[0],
        stride1: strides[1],
        stride2: strides[2],
        stride3: strides[3],
        count,
        gridWidth,
      },
    };
  },
  wasm({ input }, { permutation }) {
    const { lengths, strides } = walk(input, permutation);
    return {
      function: "permute",
      tasks: lengths[0] * lengths[1],
      work: elementCount(input.shape),
      scratch: 0,
      words: [{ tensor: "input" }, { tensor: "output" }, ...lengths.slice(1), ...strides],
    };
  },
  cpu({ input, output }, { permutation }) {
    const { lengths, strides } = walk(input, permutation);
    let at = 0;
    for (let i0 = 0; i0 < lengths[0]; i0++)
      for (let i1 = 0; i1 < lengths[1]; i1++)
        for (let i2 = 0; i2 < lengths[2]; i2++) {
          const start = i0 * strides[0] + i1 * strides[1] + i2 * strides[2];
          for (let i3 = 0; i3 < lengths[3]; i3++)
            output.data[at++] = input.data[start + i3 * strides[3]]!;
        }
  },
});
