import type { Capabilities } from "../devices/capabilities.ts";
import {
  type AnyKernel,
  checkAliasing,
  type HostView,
  isRead,
  type Launch,
  type PlannedTensor,
  planLaunch,
  runKernel,
} from "../devices/kernel.ts";
import { DeviceUnavailableError, QkvError, refuse } from "../errors.ts";
import type { DimensionValues } from "../graph/dimension.ts";
import type { Graph } from "../graph/graph.ts";
import type { HostOpTensor, RecordingOpContext, WebGPUOpContext } from "../graph/op.ts";
import { fuseAttention, type GraphBody } from "../graph/passes/fuse-attention.ts";
import type { Node, Value } from "../graph/value.ts";
import { copy } from "../kernels/elementwise/kernel.ts";
import { allocateData, type DType, tensorBytes } from "../tensor/dtype.ts";
import { checkShape, elementCount, type Shape, sameShape } from "../tensor/shape.ts";

/** Memory that recorded steps refer to, before the planner gives it a buffer. */
export interface Storage {
  readonly role: "input" | "output" | "constant" | "temporary";
  /** For people: what it holds. */
  readonly name: string;
  readonly bytes: number;
  readonly constant?: HostView;
}

/** A tensor in a recording: a view of a storage, from its start. */
export class RecordedTensor implements PlannedTensor {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly storage: Storage;
  readonly #onView: ((view: RecordedView) => void) | undefined;

  /** @param onView Told of every view taken of it, and of views of those. */
  constructor(storage: Storage, dtype: DType, shape: Shape, onView?: (view: RecordedView) => void) {
    this.storage = storage;
    this.dtype = dtype;
    this.shape = shape;
    this.#onView = onView;
  }

  /** The same tensor, telling `onView` of views. */
  observed(onView: (view: RecordedView) => void): RecordedTensor {
    return new RecordedTensor(this.storage, this.dtype, this.shape, onView);
  }

  reshape(shape: Shape): RecordedTensor {
    checkReshape(this.shape, shape);
    const view = new RecordedTensor(this.storage, this.dtype, shape, this.#onView);
    if (!sameShape(shape, this.shape)) this.#onView?.({ kind: "view", from: this, to: view });
    return view;
  }
}

function checkReshape(from: Shape, to: Shape): void {
  checkShape("reshape", "shape", to);
  if (elementCount(from) !== elementCount(to))
    refuse(
      "reshape",
      `shape must have the ${elementCount(from)} elements of [${from.join(", ")}]`,
      [...to],
    );
}

/** A recorded kernel. */
export interface RecordedKernel {
  readonly kind: "kernel";
  readonly op: string;
  readonly kernel: AnyKernel;
  readonly tensors: Readonly<Record<string, RecordedTensor>>;
  readonly parameters: object;
  readonly launch?: Launch;
}

/** A whole op, to be called at every execute on the CPU. */
export interface RecordedFunction {
  readonly kind: "function";
  readonly op: string;
  readonly inputs: readonly RecordedTensor[];
  readonly outputs: readonly RecordedTensor[];
  run(inputs: readonly HostView[], outputs: readonly HostView[]): void;
}

/** A tensor seen under another shape: nothing to execute, but a step to read. */
export interface RecordedView {
  readonly kind: "view";
  readonly from: RecordedTensor;
  readonly to: RecordedTensor;
}

export type RecordedStep = RecordedKernel | RecordedFunction | RecordedView;

/** What a graph does for one set of shapes, step by step. */
export interface Recording {
  readonly steps: readonly RecordedStep[];
  readonly inputs: readonly RecordedTensor[];
  readonly outputs: readonly RecordedTensor[];
}

/**
 * Records every op of a graph once, in order, under `values` for its named dimensions. With
 * `capabilities` for WebGPU, without for the CPU.
 */
export function record(
  graph: Graph,
  values: DimensionValues,
  capabilities: Capabilities | undefined,
): Recording {
  const body = fuseAttention(graph, values);
  const steps: RecordedStep[] = [];
  const note = (view: RecordedView) => void steps.push(view);
  const tensors = new Map<Value, RecordedTensor>();
  const create = (
    role: Storage["role"],
    name: string,
    { type }: Value,
    constant?: HostView,
  ): RecordedTensor => {
    const shape = type.resolve(values);
    const bytes = tensorBytes(type.dtype, shape);
    return new RecordedTensor(
      { role, name, bytes, ...(constant && { constant }) },
      type.dtype,
      shape,
    );
  };

  const inputs = graph.inputs.map((value, index) => create("input", `input ${index}`, value));
  for (const [index, value] of graph.inputs.entries()) tensors.set(value, inputs[index]!);

  // An output of the graph is written in place by the node that makes it, unless it is some other
  // memory seen anew (an input, a constant, an earlier output): then it is copied at the end.
  const outputs: RecordedTensor[] = [];
  const copies: (readonly [Value, RecordedTensor])[] = [];
  const outputOf = new Map<Value, RecordedTensor>();
  body.outputs.forEach((value, index) => {
    const output = create("output", `output ${index}`, value);
    outputs.push(output);
    const root = rootOf(value);
    if (root.source.kind !== "node" || outputOf.has(root)) copies.push([value, output]);
    else outputOf.set(root, output);
  });

  const tensorOf = (value: Value): RecordedTensor => {
    let tensor = tensors.get(value);
    if (!tensor && value.source.kind === "constant") {
      tensor = create("constant", "constant", value, value.source.tensor);
      tensors.set(value, tensor);
    }
    if (!tensor) throw new QkvError(`${graph.name}: a node uses a value before it is made`);
    return tensor;
  };

  for (const node of usedNodes(body)) {
    const nodeInputs = node.inputs.map(tensorOf);
    if (node.op.view) {
      const [output] = node.outputs as [Value];
      tensors.set(output, nodeInputs[0]!.observed(note).reshape(output.type.resolve(values)));
      continue;
    }
    const nodeOutputs = node.outputs.map((value, index) => {
      const name = node.outputs.length > 1 ? `${node.op.name}.${index}` : node.op.name;
      const tensor =
        outputOf.get(value)?.reshape(value.type.resolve(values)) ??
        create("temporary", name, value);
      tensors.set(value, tensor);
      return tensor;
    });
    if (capabilities || node.op.record)
      recordKernels(node, nodeInputs, nodeOutputs, capabilities, steps);
    else steps.push(recordOnCPU(node, nodeInputs, nodeOutputs));
  }
  for (const [value, output] of copies)
    steps.push(
      kernelStep(
        "output",
        copy,
        { input: tensorOf(value).reshape(output.shape), output },
        {},
        capabilities,
      ),
    );
  return { steps, inputs, outputs };
}

/** The value whose memory this one is: itself, unless it comes of views. */
function rootOf(value: Value): Value {
  let root = value;
  while (root.source.kind === "node" && root.source.node.op.view)
    root = root.source.node.inputs[0]!;
  return root;
}

/** The nodes that an output depends on, in order. */
function usedNodes(body: GraphBody): Node[] {
  const used = new Set<Node>();
  const visit = ({ source }: Value) => {
    if (source.kind !== "node" || used.has(source.node)) return;
    used.add(source.node);
    source.node.inputs.forEach(visit);
  };
  body.outputs.forEach(visit);
  return body.nodes.filter((node) => used.has(node));
}

/** Refuses a kernel that writes what it also reads, or an input of its op, which others may read. */
function checkWrites<T>(
  op: string,
  kernel: AnyKernel,
  tensors: Readonly<Record<string, T | undefined>>,
  inputs: readonly T[],
  identity: (tensor: T) => unknown,
): void {
  checkAliasing(kernel, tensors, identity);
  const read = new Set(inputs.map(identity));
  for (const [name, tensor] of Object.entries(tensors))
    if (tensor !== undefined && !isRead(kernel, name) && read.has(identity(tensor)))
      refuse(kernel.name, `${name} is written, so it must not be an input of op ${op}`);
}

function kernelStep(
  op: string,
  kernel: AnyKernel,
  tensors: Readonly<Record<string, RecordedTensor>>,
  parameters: object,
  capabilities: Capabilities | undefined,
): RecordedKernel {
  const present = Object.fromEntries(
    Object.entries(tensors).filter(([, tensor]) => tensor !== undefined),
  );
  if (!capabilities) return { kind: "kernel", op, kernel, tensors: present, parameters };
  return {
    kind: "kernel",
    op,
    kernel,
    tensors: present,
    parameters,
    launch: planLaunch(kernel, present, parameters, capabilities),
  };
}

/** Records the kernels of an op: on WebGPU, or of one that records on any device. */
function recordKernels(
  { op, parameters, label = op.name }: Node,
  inputs: readonly RecordedTensor[],
  outputs: readonly RecordedTensor[],
  capabilities: Capabilities | undefined,
  steps: RecordedStep[],
): void {
  if (!op.record && !op.webgpu)
    throw new DeviceUnavailableError(
      `${op.name}: it has no WebGPU implementation; load the graph for the CPU`,
    );
  let temporaries = 0;
  const note = (view: RecordedView) => void steps.push(view);
  const context: RecordingOpContext = {
    // Views of an output are not noted: they are part of the step that writes it.
    inputs: inputs.map((tensor) => tensor.observed(note)),
    outputs,
    parameters,
    capabilities,
    allocate(dtype, shape) {
      checkShape(op.name, "shape of allocate", shape);
      const name = `${op.name} temporary ${temporaries++}`;
      const storage: Storage = { role: "temporary", name, bytes: tensorBytes(dtype, shape) };
      return new RecordedTensor(storage, dtype, [...shape], note);
    },
    enqueue(kernel, tensors, ...[kernelParameters = {}]) {
      const recorded = tensors as Readonly<Record<string, RecordedTensor>>;
      checkWrites(op.name, kernel, recorded, inputs, ({ storage }) => storage);
      steps.push(kernelStep(label, kernel, recorded, kernelParameters, capabilities));
    },
  };
  if (op.record) op.record(context);
  else op.webgpu!(context as WebGPUOpContext);
}

class HostTensor implements HostOpTensor {
  readonly data: HostView["data"];
  readonly dtype: DType;
  readonly shape: Shape;

  constructor({ data, dtype, shape }: HostView) {
    this.data = data;
    this.dtype = dtype;
    this.shape = shape;
  }

  reshape(shape: Shape): HostTensor {
    checkReshape(this.shape, shape);
    return new HostTensor({ data: this.data, dtype: this.dtype, shape });
  }
}

function recordOnCPU(
  { op, parameters, label = op.name }: Node,
  inputs: readonly RecordedTensor[],
  outputs: readonly RecordedTensor[],
): RecordedFunction {
  const { cpu } = op;
  if (!cpu)
    throw new DeviceUnavailableError(
      `${op.name}: it has no CPU implementation; load the graph for WebGPU`,
    );
  return {
    kind: "function",
    op: label,
    inputs,
    outputs,
    run: (inputViews, outputViews) =>
      cpu({
        inputs: inputViews.map((view) => new HostTensor(view)),
        outputs: outputViews.map((view) => new HostTensor(view)),
        parameters,
        allocate(dtype, shape) {
          checkShape(op.name, "shape of allocate", shape);
          return new HostTensor({ data: allocateData(dtype, elementCount(shape)), dtype, shape });
        },
        enqueue(kernel, tensors, ...[kernelParameters = {}]) {
          const views = tensors as Readonly<Record<string, HostView>>;
          checkWrites(op.name, kernel, views, inputViews, ({ data }) => data);
          runKernel(kernel, views, kernelParameters);
        },
      }),
  };
}
