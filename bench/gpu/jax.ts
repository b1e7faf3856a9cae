// A child of bench/gpu.ts: times jax-js's nn.dotProductAttention, compiled by its jit.

import { provideWebGPU } from "./browser.ts";
import { type BenchCase, shapes } from "./cases.ts";
import { type OpenCase, runCases } from "./chain.ts";
import type { Elements } from "./numbers.ts";
import { requirePackage, versionOf } from "./packages.ts";

/** As much of the package as is used. A call takes its arguments over, unless given their `ref`. */
interface JaxArray {
  readonly ref: JaxArray;
  reshape(shape: readonly number[]): JaxArray;
  blockUntilReady(): Promise<JaxArray>;
  data(): Promise<ArrayBufferView<ArrayBuffer>>;
  dispose(): void;
}

type Attention = (query: JaxArray, key: JaxArray, value: JaxArray) => JaxArray;

interface Jax {
  init(device: "webgpu"): Promise<readonly string[]>;
  defaultDevice(device: "webgpu"): void;
  jit(compute: Attention): Attention;
  readonly nn: {
    dotProductAttention(...call: [...Parameters<Attention>, { isCausal: boolean }]): JaxArray;
  };
  readonly numpy: { array(data: ArrayBufferView): JaxArray };
}

// Its arrays of float16 are Float16Arrays.
const Float16 = Reflect.get(globalThis, "Float16Array") as
  | (new (
      buffer: ArrayBufferLike,
    ) => ArrayBufferView)
  | undefined;
if (!Float16) throw new Error("jax-js wants Node 24");

const gpu = provideWebGPU();
const jax = requirePackage("@jax-js/jax") as Jax;
if (!(await jax.init("webgpu")).includes("webgpu")) throw new Error("it opened no GPU");
jax.defaultDevice("webgpu");

/** `[batch, first, second, depth]` with the two in the middle changed over, as is its layout. */
function swapped(elements: Elements, first: number, second: number, depth: number): Elements {
  if (first === 1 || second === 1) return elements;
  const result = elements.slice();
  const size = first * second;
  for (let row = 0; row < elements.length / depth; row++) {
    const inBatch = row % size;
    const to = row - inBatch + (inBatch % second) * first + Math.floor(inBatch / second);
    result.set(elements.subarray(row * depth, (row + 1) * depth), to * depth);
  }
  return result;
}

function upload(
  { batch, depth }: BenchCase,
  elements: Elements,
  heads: number,
  rows: number,
): JaxArray {
  const data = swapped(elements, heads, rows, depth);
  const array = jax.numpy.array(data instanceof Float32Array ? data : new Float16!(data.buffer));
  return array.reshape([batch, rows, heads, depth]);
}

const open: OpenCase = async (of, query, key, value) => {
  const { heads, kvHeads, queries, keys, depth, causal } = of;
  const q = upload(of, query, heads, queries);
  const k = upload(of, key, kvHeads, keys);
  const v = upload(of, value, kvHeads, keys);
  const attention = jax.jit((query, key, value) =>
    jax.nn.dotProductAttention(query, key, value, { isCausal: causal }),
  );
  return {
    async run(ops) {
      let x = q.ref;
      for (let i = 0; i < ops; i++) x = attention(x, k.ref, v.ref);
      await x.blockUntilReady();
      x.dispose();
      await gpu.done();
    },
    async output() {
      const { buffer, byteOffset } = await attention(q.ref, k.ref, v.ref).data();
      await gpu.done();
      const length = shapes(of).output.reduce((a, b) => a * b);
      const kind = of.dtype === "float32" ? Float32Array : Uint16Array;
      return swapped(new kind(buffer, byteOffset, length), queries, heads, depth);
    },
    destroy() {
      for (const array of [q, k, v]) array.dispose();
    },
  };
};

await runCases(`jax-js ${versionOf("@jax-js/jax")}`, open);
process.exit();
