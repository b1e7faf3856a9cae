import type { Capabilities } from "../devices/capabilities.ts";
import type { Device } from "../devices/device.ts";
import { presentTensors } from "../devices/kernel.ts";
import { describe, QkvError, refuse } from "../errors.ts";
import type { DimensionValues } from "../graph/dimension.ts";
import { Graph } from "../graph/graph.ts";
import { Model } from "./model.ts";
import { type Recording, record } from "./recorder.ts";

/** Loads graphs for a device. */
export class InferenceSession {
  readonly device: Device;

  /** @throws QkvError without a device. */
  constructor({ device }: { readonly device: Device }) {
    if (!device?.prepare)
      refuse("InferenceSession", "device must be a device (see requestDevice)", device);
    this.device = device;
  }

  /**
   * Makes a graph ready to execute: records its ops, plans its memory, and compiles its kernels, in
   * parallel. A graph with named dimensions is recorded for many lengths of each, so that
   * all its kernels are compiled here; memory is planned when an execute brings the lengths.
   *
   * @throws QkvError if an op refuses its inputs; rejects with `CompilationError` if a kernel's WGSL
   *   does not compile.
   */
  async load(graph: Graph): Promise<Model> {
    if (!(graph instanceof Graph)) refuse("InferenceSession.load", "graph must be a Graph", graph);
    const { capabilities } = this.device;
    const names = [...new Set(graph.inputTypes.flatMap((type) => type.names))];
    for (const name of names)
      if (!graph.inputTypes.some((type) => type.shape.includes(name)))
        refuse(
          graph.name,
          `dimension ${describe(name)} must be the whole of some input's axis, to get its length from`,
        );
    for (const output of graph.outputs)
      for (const name of output.type.names)
        if (!names.includes(name))
          refuse(graph.name, `dimension ${describe(name)} must be that of an input`);
    if (capabilities) {
      const recordings = recordProbes(graph, names, capabilities);
      await this.device.compile(
        recordings.flatMap(({ steps }) =>
          steps.flatMap((step) =>
            step.kind === "kernel" && step.launch
              ? [[step.kernel, presentTensors(step.kernel, step.tensors), step.launch] as const]
              : [],
          ),
        ),
      );
    }
    const model = new Model(graph, this.device, names);
    if (names.length === 0) model.prepare({});
    return model;
  }
}

/** Lengths between which kernels switch variants. */
const probeLengths = [1, 2, 4, 8, 16, 32, 64, 128, 1024, 16384];

/**
 * Values to record with: every combination for up to three names; for more, every combination of each two,
 * the others short or long.
 */
function probes(names: readonly string[]): DimensionValues[] {
  const combine = (over: readonly string[], base: DimensionValues): DimensionValues[] =>
    over.reduce(
      (all, name) =>
        all.flatMap((values) => probeLengths.map((length) => ({ ...values, [name]: length }))),
      [base],
    );
  if (names.length <= 3) return combine(names, {});
  return [1, 1024].flatMap((length) => {
    const base = Object.fromEntries(names.map((name) => [name, length]));
    return names.flatMap((first, i) =>
      names.slice(i + 1).flatMap((second) => combine([first, second], base)),
    );
  });
}

/**
 * Records a graph with every probe, whatever a device's limits on sizes: only kernels matter here. A probe
 * that an op refuses tells nothing, unless all are refused.
 */
function recordProbes(
  graph: Graph,
  names: readonly string[],
  capabilities: Capabilities,
): Recording[] {
  if (names.length === 0) return [record(graph, {}, capabilities)];
  const unlimited = { ...capabilities, bindingBytes: Number.POSITIVE_INFINITY };
  const recordings: Recording[] = [];
  let refused: unknown;
  for (const values of probes(names)) {
    try {
      recordings.push(record(graph, values, unlimited));
    } catch (error) {
      if (!(error instanceof QkvError)) throw error;
      refused = error;
    }
  }
  if (recordings.length === 0) throw refused;
  return recordings;
}
