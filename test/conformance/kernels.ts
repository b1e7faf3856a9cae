import { test } from "node:test";
import { assert } from "chai";
import type { Access, Named } from "../../src/devices/kernel.ts";
import {
  type Device,
  type DeviceKind,
  type DeviceTensor,
  type DType,
  type Kernel,
  matmul,
  type Shape,
  softmax,
  softmaxInPlace,
  type TensorData,
  tensor,
  transpose,
  WebGPUDevice,
} from "../../src/index.ts";
import { binary, copy, scale } from "../../src/kernels/elementwise/kernel.ts";
import { matmulTiles, selectMatmul } from "../../src/kernels/matmul/kernel.ts";
import { permute } from "../../src/kernels/transpose/kernel.ts";
import { allocateData } from "../../src/tensor/dtype.ts";
import { elementCount } from "../../src/tensor/shape.ts";
import { assertClose, type Tolerance } from "../support/compare.ts";
import { guardedTensor, upload } from "../support/devices.ts";
import { random } from "../support/random.ts";

// Every small kernel alone, over awkward sizes, against float64 loops written here. Outputs begin
// poisoned and lie between guards. Where numbers are small integers, float32 is exact whatever the
// order of a sum, and so is the comparison.

const exact: Tolerance = { absolute: 0, relative: 0 };
/** exp is good to some units in the last place, more of them the larger its argument. */
const softmaxTolerance: Tolerance = { absolute: 1e-30, relative: 5e-5 };

/** Runs `kernel` into one poisoned output and compares it. */
async function check<Tensors extends Record<string, Access>, Parameters extends object>(
  device: Device,
  kernel: Kernel<Tensors, Parameters>,
  inputs: Readonly<Record<string, DeviceTensor>>,
  output: { readonly shape: Shape; readonly expected: ArrayLike<number>; readonly dtype?: DType },
  parameters: object = {},
  tolerance: Tolerance = exact,
): Promise<void> {
  const { shape, expected, dtype = "float32" } = output;
  const shapes = Object.values(inputs).map((input) => `[${input.shape}]`);
  const label = `${kernel.name} of ${shapes.join(" and ")} ${JSON.stringify(parameters)}`;
  const guarded = guardedTensor(device, dtype, shape);
  const tensors = { ...inputs, output: guarded.tensor } as unknown as Named<Tensors, DeviceTensor>;
  device.enqueue<Tensors, object>(kernel, tensors, parameters);
  for (const input of Object.values(inputs)) input.destroy();
  const data = await guarded.read();
  guarded.tensor.destroy();
  assertClose(label, { data, dtype, shape }, expected, tolerance);
}

/** 0, 1, 2, …: every element tells where it came from. */
const indices = (shape: Shape): Float32Array =>
  Float32Array.from({ length: elementCount(shape) }, (_, i) => i);

/** Integers so small that products of them are summed exactly. */
function integers(shape: Shape): Float32Array {
  const { integer } = random(elementCount(shape));
  return Float32Array.from({ length: elementCount(shape) }, () => integer(-8, 8));
}

function normals(shape: Shape): Float32Array {
  const { normal } = random(elementCount(shape));
  return Float32Array.from({ length: elementCount(shape) }, () => normal());
}

/** Axis i of the result is axis permutation[i] of `data`. */
function permuted(data: ArrayLike<number>, shape: Shape, permutation: readonly number[]) {
  const outShape = permutation.map((axis) => shape[axis]!);
  const strides = shape.map((_, axis) => elementCount(shape.slice(axis + 1)));
  const expected = Float64Array.from({ length: data.length }, (_, flat) => {
    let rest = flat;
    let from = 0;
    for (let axis = outShape.length - 1; axis >= 0; axis--) {
      from += (rest % outShape[axis]!) * strides[permutation[axis]!]!;
      rest = Math.floor(rest / outShape[axis]!);
    }
    return data[from]!;
  });
  return { shape: outShape, expected };
}

function multiplied(a: ArrayLike<number>, b: ArrayLike<number>, aShape: Shape, columns: number) {
  const [rows, inner] = aShape.slice(-2) as [number, number];
  const batch = aShape.slice(0, -2);
  const expected = new Float64Array(elementCount(batch) * rows * columns);
  for (let i = 0; i < expected.length; i++) {
    const row = Math.floor(i / columns);
    const bStart = Math.floor(row / rows) * inner * columns + (i % columns);
    for (let k = 0; k < inner; k++) expected[i]! += a[row * inner + k]! * b[bStart + k * columns]!;
  }
  return { shape: [...batch, rows, columns], expected };
}

/** Softmax of each row by its definition; a row of −∞ gives zeros. */
function softmaxed(data: ArrayLike<number>, shape: Shape) {
  const columns = shape.at(-1)!;
  const expected = new Float64Array(data.length);
  for (let start = 0; start < data.length; start += columns) {
    const row = Array.prototype.slice.call(data, start, start + columns) as number[];
    const maximum = row.reduce((a, b) => Math.max(a, b));
    const powers = row.map((x) => (maximum === -Infinity ? 0 : Math.exp(x - maximum)));
    const sum = powers.reduce((a, b) => a + b);
    for (const [i, power] of powers.entries()) expected[start + i] = sum === 0 ? 0 : power / sum;
  }
  return { shape, expected };
}

/** [rows, inner, columns] for every tile of the matmul, around its edges. */
const products: readonly (readonly [rows: number, inner: number, columns: number])[] = [
  ...([
    [1, 1, 1],
    [1, 16, 16],
    [1, 17, 63],
    [1, 2, 64],
    [1, 1009, 65],
    [1, 1000, 1],
  ] as const),
  ...([
    [1, 9, 16383],
    [1, 1, 16384],
    [1, 9, 16387],
    [1, 5, 20011],
  ] as const),
  ...([
    [2, 2, 2],
    [15, 17, 16],
    [16, 16, 16],
    [17, 31, 65],
    [32, 15, 64],
    [2, 5, 1031],
  ] as const),
  ...([
    [3, 1021, 5],
    [31, 1, 130],
    [33, 1, 1],
    [64, 16, 64],
    [65, 17, 65],
  ] as const),
  ...([
    [61, 67, 71],
    [127, 33, 129],
    [1031, 3, 2],
    [1009, 1, 67],
    [100, 200, 150],
  ] as const),
];

/** Declares the tests of the kernels on one device. */
export function testKernels(device: () => Device, kind: DeviceKind): void {
  test("transpose", async () => {
    const lengths = [1, 2, 15, 16, 17, 32, 33, 61];
    const shapes: Shape[] = lengths.flatMap((rows) => lengths.map((columns) => [rows, columns]));
    shapes.push([1, 1021], [1021, 1], [3, 2053], [2053, 3], [1031, 67]);
    shapes.push([1, 1, 1], [5, 7, 11], [2, 3, 17, 33], [7, 1, 33], [2, 64, 96]);
    shapes.push([521, 33, 2]); // more tiles than workgroups
    await Promise.all(
      shapes.map((shape) => {
        const data = indices(shape);
        const axes = shape.map((_, axis) => axis);
        const output = permuted(data, shape, [...axes.slice(0, -2), ...axes.slice(-2).reverse()]);
        return check(device(), transpose, { input: upload(device(), data, shape) }, output);
      }),
    );
  });

  test("permute", async () => {
    const permutations = (axes: readonly number[]): number[][] =>
      axes.length === 0
        ? [[]]
        : axes.flatMap((first) =>
            permutations(axes.filter((axis) => axis !== first)).map((rest) => [first, ...rest]),
          );
    const cases: (readonly [Shape, readonly number[]])[] = [
      ...permutations([0, 1, 2, 3]).map((axes) => [[2, 3, 5, 7], axes] as const),
      ...permutations([0, 1, 2]).map((axes) => [[17, 1, 33], axes] as const),
      [[1], [0]],
      [[1009], [0]],
      [
        [1013, 3],
        [1, 0],
      ],
      // Axes of one element, and neighbors that stay neighbors, do not count against its four.
      [
        [3, 1, 4, 1, 2],
        [4, 3, 2, 1, 0],
      ],
      [
        [2, 3, 2, 3, 2, 3],
        [4, 5, 0, 1, 2, 3],
      ],
      [
        [2, 2, 3, 5, 2],
        [4, 2, 3, 0, 1],
      ],
    ];
    await Promise.all(
      cases.map(([shape, permutation]) => {
        const data = indices(shape);
        const output = permuted(data, shape, permutation);
        const inputs = { input: upload(device(), data, shape) };
        return check(device(), permute, inputs, output, { permutation });
      }),
    );
  });

  test("matmul", async () => {
    const hit = new Set<string>();
    const run = ([rows, inner, columns]: (typeof products)[number], batch: Shape = []) => {
      hit.add(selectMatmul(rows, columns));
      const [aShape, bShape] = [
        [...batch, rows, inner],
        [...batch, inner, columns],
      ];
      const [a, b] = [integers(aShape), integers(bShape)];
      const inputs = { a: upload(device(), a, aShape), b: upload(device(), b, bShape) };
      return check(device(), matmul, inputs, multiplied(a, b, aShape, columns));
    };
    await Promise.all(products.map((product) => run(product)));
    await Promise.all([
      run([1, 5, 7], [3]),
      run([1, 3, 16_385], [2]),
      run([9, 17, 66], [2, 2]),
      run([67, 2, 65], [3, 1]),
    ]);
    assert.sameMembers([...hit], Object.keys(matmulTiles));
  });

  test("matmul of numbers that round", async () => {
    for (const [rows, inner, columns] of [
      [1, 1000, 70],
      [20, 300, 70],
      [70, 300, 70],
      [1, 20, 16_400],
    ] as const) {
      const [a, b] = [normals([rows, inner]), normals([inner, columns])];
      const inputs = {
        a: upload(device(), a, [rows, inner]),
        b: upload(device(), b, [inner, columns]),
      };
      const output = multiplied(a, b, [rows, inner], columns);
      await check(device(), matmul, inputs, output, {}, { absolute: 2e-4, relative: 1e-5 });
    }
  });

  /** Rows of every awkward kind, cyclically, so that neighbors differ. */
  const awkwardRows = (rows: number, columns: number): Float32Array => {
    const { normal, integer } = random(rows * columns);
    const kinds: (() => (column: number) => number)[] = [
      () => normal,
      () => () => 1e4 * (integer(0, 1) - 0.5) * 2,
      () => () => -1e4,
      () => () => -Infinity,
      () => (column) => 1e4 + normal() + (column % 2 === 0 ? 0 : -3),
      () => {
        const at = integer(0, columns - 1);
        return (column) => (column === at ? NaN : normal());
      },
      () => (column) => column * 0.01, // a new maximum at every step
      () => {
        const at = integer(0, columns - 1);
        return (column) => (column === at ? -7 : -Infinity);
      },
      () => () => -3.4028234663852886e38, // the lowest there is
    ];
    const data = new Float32Array(rows * columns);
    for (let row = 0; row < rows; row++) {
      const element = kinds[row % kinds.length]!();
      for (let column = 0; column < columns; column++)
        data[row * columns + column] = element(column);
    }
    return data;
  };
  const softmaxShapes: Shape[] = [
    ...[1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 31, 33, 64, 65, 127, 128, 129, 255, 256, 257],
    ...[511, 512, 513, 1000, 1009, 1023, 1024, 1025, 2500, 5000],
  ].map((columns) => [columns > 128 ? 10 : 19, columns]);
  softmaxShapes.push([1], [17], [1031], [1, 1], [1, 5000], [521, 1], [521, 3], [300, 7], [2, 3, 5]);
  softmaxShapes.push([2, 2, 1, 600], [65_541, 2]);

  test("softmax", async () => {
    await Promise.all(
      softmaxShapes.map((shape) => {
        const data = awkwardRows(elementCount(shape) / shape.at(-1)!, shape.at(-1)!);
        const inputs = { input: upload(device(), data, shape) };
        return check(device(), softmax, inputs, softmaxed(data, shape), {}, softmaxTolerance);
      }),
    );
  });

  test("softmax in place", async () => {
    await Promise.all(
      softmaxShapes.map(async (shape) => {
        const input = awkwardRows(elementCount(shape) / shape.at(-1)!, shape.at(-1)!);
        const guarded = guardedTensor(device(), "float32", shape, input);
        device().enqueue(softmaxInPlace, { values: guarded.tensor });
        const data = await guarded.read();
        const { expected } = softmaxed(input, shape);
        const view = { data, dtype: "float32", shape } as const;
        assertClose(`softmax in place of [${shape}]`, view, expected, softmaxTolerance);
      }),
    );
  });

  const vectors: Shape[] = [[], [1], [2], [255], [256], [257], [1009], [3, 5, 7], [70_001]];

  test("scale, mul and add", async () => {
    await Promise.all(
      vectors.flatMap((shape) => {
        const [x, y] = [integers(shape), indices(shape)];
        const put = (data: Float32Array) => upload(device(), data, shape);
        const output = (f: (x: number, y: number) => number) => ({
          shape,
          expected: Float64Array.from(x, (value, i) => f(value, y[i]!)),
        });
        return [
          check(
            device(),
            scale,
            { input: put(x) },
            output((a) => a * -0.75),
            { factor: -0.75 },
          ),
          check(
            device(),
            binary.mul,
            { a: put(x), b: put(y) },
            output((a, b) => a * b),
          ),
          check(
            device(),
            binary.add,
            { a: put(x), b: put(y) },
            output((a, b) => a + b),
          ),
        ];
      }),
    );
  });

  test("copy, of every dtype, bit by bit", async () => {
    const dtypes = ["float32", "float16", "bfloat16", "int32", "bool"] as const;
    await Promise.all(
      dtypes.flatMap((dtype) =>
        vectors.map(async (shape) => {
          const { integer } = random(elementCount(shape));
          const data: TensorData = allocateData(dtype, elementCount(shape));
          for (let i = 0; i < data.length; i++) data[i] = integer(0, dtype === "bool" ? 1 : 30_000);
          const input = device().upload(tensor(data, shape, dtype));
          const { tensor: output, read } = guardedTensor(device(), dtype, shape);
          device().enqueue(copy, { input, output });
          assert.deepEqual(await read(), data, `${dtype} [${shape}]`);
        }),
      ),
    );
  });

  if (kind === "webgpu")
    test("on a grid that folds", async () => {
      const gpu = device() as WebGPUDevice;
      // Three workgroups an axis stand for WebGPU's 65,535: 7 fold into 3 × 3, of which 2 are too many.
      const on = Object.assign(new WebGPUDevice(gpu.gpuDevice), {
        capabilities: { ...gpu.capabilities, workgroupsPerDimension: 3 },
      });
      const put = (data: ArrayLike<number>, shape: Shape) => upload(on, data, shape);
      const [count, wide] = [7 * 256 - 9, [3, 2, 257]];
      const x = indices([count]);
      const rows = [7, 700]; // a workgroup each
      const short = [7 * 64 - 3, 16]; // 64 a workgroup
      const checks = [
        check(
          on,
          scale,
          { input: put(x, [count]) },
          { shape: [count], expected: x },
          { factor: 1 },
        ),
        check(on, copy, { input: put(x, [count]) }, { shape: [count], expected: x }),
        check(
          on,
          permute,
          { input: put(indices(wide), wide) },
          permuted(indices(wide), wide, [2, 1, 0]),
          { permutation: [2, 1, 0] },
        ),
        ...[rows, short].map((shape) => {
          const data = normals(shape);
          const output = softmaxed(data, shape);
          return check(on, softmax, { input: put(data, shape) }, output, {}, softmaxTolerance);
        }),
        ...(
          [
            [1, 3, 64 * 7 - 1],
            [17, 3, 64 * 3 + 1],
            [65, 3, 64 * 3 + 1],
          ] as const
        ).map(([m, k, n]) => {
          const [a, b] = [integers([m, k]), integers([k, n])];
          const inputs = { a: put(a, [m, k]), b: put(b, [k, n]) };
          return check(on, matmul, inputs, multiplied(a, b, [m, k], n));
        }),
      ];
      await Promise.all(checks);
    });
}
