// Measures: away from the page, which stays free to show progress, and to cancel by ending the worker.

import { type Device, requestDevice, WebGPUDevice } from "qkv";
import { makeInputs } from "./inputs.ts";
import { measureQkv } from "./measure-qkv.ts";
import {
  type BenchmarkReply,
  type BenchmarkRequest,
  type Engine,
  engineNames,
} from "./messages.ts";
import { measurePeaks } from "./peaks.ts";
import { sizeSets } from "./sizes.ts";

const reply = (message: BenchmarkReply) => postMessage(message);

/** Whether a GPU is a program on the CPU. */
const isSoftware = (device: Device) =>
  /swiftshader|llvmpipe|basic render/i.test(device.description);

async function run({ sizes: set, engines }: BenchmarkRequest): Promise<void> {
  const sizes = sizeSets[set];
  const total = engines.length * sizes.length + 1;
  let over = 0;
  const progress = (share: number, text: string) =>
    reply({ kind: "progress", share: (over + share) / total, text });
  const expected: Float32Array[] = [];
  // The CPU goes first where it takes part: the rest is held against it.
  const order: readonly Engine[] = [...engines].sort(
    (a, b) => Number(b === "cpu") - Number(a === "cpu"),
  );
  for (const engine of order) {
    progress(0, `${engineNames[engine]}: starting`);
    try {
      await measureEngine(engine);
    } catch (error) {
      reply({
        kind: "failed",
        engine,
        text: error instanceof Error ? error.message : String(error),
      });
    }
  }
  reply({ kind: "done" });

  async function measureEngine(engine: Engine): Promise<void> {
    const onnxRuntime = engine === "onnxruntime" ? await import("./onnxruntime.ts") : undefined;
    const device = engine === "onnxruntime" ? undefined : await requestDevice(engine);
    const description = device?.description ?? "WebGPU, MultiHeadAttention";
    reply({ kind: "device", engine, description });
    for (const [index, size] of sizes.entries()) {
      const inputs = makeInputs(size);
      const options = {
        onProgress: (share: number) => progress(share, `${engineNames[engine]}: ${size.name}`),
      };
      options.onProgress(0);
      const { output, seconds, calls } = device
        ? await measureQkv(device, size, inputs, options)
        : await onnxRuntime!.measureOnnxRuntime(size, inputs, options);
      const difference = expected[index] && largestDifference(output, expected[index]);
      if (engine === "cpu") expected[index] = output;
      const row = { engine, size: index, seconds, calls };
      reply({ kind: "row", row: { ...row, ...(difference !== undefined && { difference }) } });
      over++;
    }
    if (device instanceof WebGPUDevice) {
      progress(0, "the GPU's peaks");
      reply({ kind: "peaks", peaks: await measurePeaks(device, isSoftware(device)) });
    }
    device?.destroy();
  }
}

function largestDifference(a: Float32Array, b: Float32Array): number {
  let largest = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(a[i]! - b[i]!);
    if (!(difference <= largest)) largest = difference;
  }
  return largest;
}

addEventListener("message", ({ data }: MessageEvent<BenchmarkRequest>) => void run(data));
