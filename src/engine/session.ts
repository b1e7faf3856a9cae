import type { Device } from "../devices/device.ts";
import { presentTensors } from "../devices/kernel.ts";
import { describe, refuse } from "../errors.ts";
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
   * parallel. A graph with named dimensions is recorded for small and large lengths of each, so that
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
      const recordings: Recording[] = probes(names).map((values) =>
        record(graph, values, capabilities),
      );
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

/** Lengths at which kernels switch variants lie between these. */
const probeLengths = [1, 16, 1024];

/** Lengths to record with: every combination for a few names, all names alike for many. */
function probes(names: readonly string[]): DimensionValues[] {
  if (names.length > 3)
    return probeLengths.map((length) => Object.fromEntries(names.map((name) => [name, length])));
  return names.reduce<DimensionValues[]>(
    (all, name) =>
      all.flatMap((values) => probeLengths.map((length) => ({ ...values, [name]: length }))),
    [{}],
  );
}
