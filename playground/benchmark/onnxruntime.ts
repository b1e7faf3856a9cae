import wasm from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm?url";
import * as ort from "onnxruntime-web/webgpu";
import type { Inputs } from "./inputs.ts";
import { type Measured, type MeasureOptions, measureCalls } from "./measure.ts";
import { attentionModel } from "./onnx-model.ts";
import type { BenchmarkSize } from "./sizes.ts";

// onnxruntime-web, from where this page comes from. Inputs and outputs stay on the GPU, as qkv's do.

ort.env.wasm.wasmPaths = { wasm };
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

export async function measureOnnxRuntime(
  size: BenchmarkSize,
  { q, k, v }: Inputs,
  options: MeasureOptions,
): Promise<Measured & { readonly output: Float32Array }> {
  const session = await ort.InferenceSession.create(attentionModel(size), {
    executionProviders: ["webgpu"],
    preferredOutputLocation: "gpu-buffer",
  });
  const device = await ort.env.webgpu.device;
  const buffers: GPUBuffer[] = [];
  const upload = (data: Float32Array, rows: number) => {
    // COPY_SRC, COPY_DST and STORAGE.
    const buffer = device.createBuffer({ size: data.byteLength, usage: 4 | 8 | 128 });
    device.queue.writeBuffer(buffer, 0, data as Float32Array<ArrayBuffer>);
    buffers.push(buffer);
    const dims = [1, rows, size.heads * size.depth];
    return ort.Tensor.fromGpuBuffer(buffer, { dataType: "float32", dims });
  };
  try {
    const feeds = {
      q: upload(q, size.queries),
      k: upload(k, size.keys),
      v: upload(v, size.keys),
    };
    const { output } = await session.run(feeds);
    const data = (await output!.getData(true)) as Float32Array;
    const measured = await measureCalls(
      async () => {
        const results = await session.run(feeds);
        results["output"]!.dispose();
      },
      () => device.queue.onSubmittedWorkDone(),
      options,
    );
    return { ...measured, output: data };
  } finally {
    for (const buffer of buffers) buffer.destroy();
    await session.release();
  }
}
