import type { SizeSet } from "./sizes.ts";

/** What is timed. */
export const engines = ["webgpu", "cpu", "onnxruntime"] as const;

export type Engine = (typeof engines)[number];

export const engineNames: Readonly<Record<Engine, string>> = {
  webgpu: "qkv on the GPU",
  cpu: "qkv on the CPU",
  onnxruntime: "onnxruntime-web",
};

export interface BenchmarkRequest {
  readonly sizes: SizeSet;
  readonly engines: readonly Engine[];
}

/** One time. */
export interface Row {
  readonly engine: Engine;
  /** Index into the sizes of the set. */
  readonly size: number;
  readonly seconds: number;
  readonly calls: number;
  /** The largest difference from qkv's output on the CPU. */
  readonly difference?: number;
}

/** What the GPU can do at most, measured. */
export interface Peaks {
  readonly flopsPerSecond: number;
  readonly bytesPerSecond: number;
}

export type BenchmarkReply =
  | { readonly kind: "device"; readonly engine: Engine; readonly description: string }
  | { readonly kind: "progress"; readonly share: number; readonly text: string }
  | { readonly kind: "row"; readonly row: Row }
  | { readonly kind: "peaks"; readonly peaks: Peaks }
  | { readonly kind: "failed"; readonly engine: Engine; readonly text: string }
  | { readonly kind: "done" };
