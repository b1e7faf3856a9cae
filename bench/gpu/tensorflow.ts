// A child of bench/gpu.ts: times TensorFlow.js's WebGPU backend, where attention is four ops.

import { provideWebGPU } from "./browser.ts";
import { type BenchCase, shapes } from "./cases.ts";
import { type OpenCase, runCases } from "./chain.ts";
import type { Elements } from "./numbers.ts";
import { requirePackage, versionOf } from "./packages.ts";

interface Tensor {
  data(): Promise<Float32Array>;
  dataToGPU(): { readonly tensorRef: Tensor };
  dispose(): void;
}

/** As much of the package as is used. */
interface TensorFlow {
  env(): { set(flag: string, value: boolean): void };
  setBackend(name: "webgpu"): Promise<boolean>;
  tensor(data: Float32Array, shape: readonly number[]): Tensor;
  tidy(compute: () => Tensor): Tensor;
  matMul(a: Tensor, b: Tensor, transposeA?: boolean, transposeB?: boolean): Tensor;
  softmax(logits: Tensor): Tensor;
  mul(a: Tensor, b: number): Tensor;
}

const gpu = provideWebGPU();
const tf = requirePackage("@tensorflow/tfjs-core") as TensorFlow;
requirePackage("@tensorflow/tfjs-backend-webgpu");
if (!(await tf.setBackend("webgpu"))) throw new Error("it opened no GPU");
tf.env().set("WEBGPU_CPU_FORWARD", false); // or small tensors would stay on the CPU

function upload({ batch, depth }: BenchCase, elements: Elements, heads: number): Tensor {
  const rows = elements.length / (batch * heads * depth);
  return tf.tensor(elements as Float32Array, [batch, heads, rows, depth]);
}

const open: OpenCase = async (of, query, key, value) => {
  if (of.dtype !== "float32") throw new Error("float32 only");
  if (of.causal || of.heads !== of.kvHeads) throw new Error("no such attention");
  const [q, k, v] = [query, key, value].map((data) => upload(of, data, of.heads));
  // The scale goes where it costs least.
  const attention = (x: Tensor) =>
    tf.matMul(tf.softmax(tf.matMul(tf.mul(x, 1 / Math.sqrt(of.depth)), k!, false, true)), v!);
  return {
    async run(ops) {
      const result = tf.tidy(() => {
        let x = q!;
        for (let i = 0; i < ops; i++) x = attention(x);
        return x;
      });
      // Submits what is recorded, and copies the result, in short chains as in long ones.
      const { tensorRef } = result.dataToGPU();
      await gpu.done();
      tensorRef.dispose();
      result.dispose();
    },
    async output() {
      const result = tf.tidy(() => attention(q!));
      const data = await result.data();
      await gpu.done();
      result.dispose();
      return data.subarray(
        0,
        shapes(of).output.reduce((a, b) => a * b),
      );
    },
    destroy() {
      for (const tensor of [q, k, v]) tensor!.dispose();
    },
  };
};

await runCases(`TensorFlow.js ${versionOf("@tensorflow/tfjs-core")} WebGPU`, open);
process.exit();
