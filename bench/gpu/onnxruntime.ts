// A child of bench/gpu.ts: times onnxruntime-node's WebGPU provider on the cases given as JSON,
// and prints a line of JSON for each. One op is (t(n) − t(1)) / (n − 1) of a chain of n.

import type { BenchCase } from "./cases.ts";
import { timeChain } from "./chain.ts";
import { attentionChain, takesCase } from "./onnx.ts";
import { requirePackage } from "./packages.ts";
import { type Timing, timeCalls } from "./timer.ts";

/** As much of the package as is used; it is no dependency. */
interface OnnxRuntime {
  readonly env: { readonly versions: Readonly<Record<string, string>> };
  readonly InferenceSession: {
    create(model: Uint8Array, options: object): Promise<OnnxSession>;
  };
  readonly Tensor: new (type: string, data: Float32Array | Uint16Array, shape: number[]) => object;
}

interface OnnxSession {
  run(feeds: Record<string, object>): Promise<Record<string, object>>;
  release(): Promise<void>;
}

const { cases, milliseconds } = JSON.parse(process.argv[2] ?? "{}") as {
  readonly cases: readonly BenchCase[];
  readonly milliseconds: number;
};

// With Float16Array there, the package takes no Uint16Array for float16.
Reflect.deleteProperty(globalThis, "Float16Array");
const ort = requirePackage("onnxruntime-node") as OnnxRuntime;

async function time(of: BenchCase, ops: number): Promise<Timing> {
  const session = await ort.InferenceSession.create(attentionChain(of, ops), {
    executionProviders: ["webgpu"],
    logSeverityLevel: 3,
  });
  const data = of.dtype === "float32" ? new Float32Array(1) : new Uint16Array(1);
  const zero = new ort.Tensor(of.dtype, data, [1]);
  const timing = await timeCalls(() => session.run({ zero }), milliseconds);
  await session.release();
  return timing;
}

for (const of of cases) {
  if (!takesCase(of)) continue;
  const peer = `onnxruntime-node ${ort.env.versions["node"] ?? ""} WebGPU`;
  try {
    const timing = await timeChain((ops) => time(of, ops), 5);
    console.log(JSON.stringify({ case: of.name, peer, timing }));
  } catch (error) {
    console.log(JSON.stringify({ case: of.name, peer, error: String(error).split("\n")[0] }));
  }
}
process.exit();
