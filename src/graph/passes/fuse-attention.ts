import { maximumDepth } from "../../kernels/attention/spec.ts";
import { type DimensionValues, evaluateDimension } from "../dimension.ts";
import type { Graph } from "../graph.ts";
import type { AnyOp } from "../op.ts";
import { binaryOps, scaleOp } from "../ops/elementwise.ts";
import { matmulOp } from "../ops/matmul.ts";
import { reshapeOp } from "../ops/reshape.ts";
import {
  type FusedAttentionParameters,
  scaledDotProductAttentionOp,
} from "../ops/scaled-dot-product-attention.ts";
import { softmaxOp } from "../ops/softmax.ts";
import { transposeOp } from "../ops/transpose.ts";
import type { TensorType } from "../tensor-type.ts";
import { type Node, Value } from "../value.ts";

/** The part of a graph that passes rewrite. */
export interface GraphBody {
  readonly nodes: readonly Node[];
  readonly outputs: readonly Value[];
}

/** Attention found in a graph of built-in ops. */
interface Match {
  readonly query: Value;
  /** Kᵀ's source and the axes that make it K, `[…, keys, depth]`. */
  readonly keySource: Value;
  readonly keyPermutation: readonly number[];
  readonly value: Value;
  readonly mask: Value | undefined;
  readonly scale: number;
  /** Names of the ops that become one. */
  readonly ops: readonly string[];
}

/**
 * Replaces `matmul → (mul by a number) → (add) → softmax → matmul` by fused attention: no matrix of
 * scores is ever written. The first product's right side must be a transpose, of K; reshapes that keep
 * the last axis, and factors on Q, on K and on the scores are seen through. A value that something else
 * uses, or that is an output of the graph, is never fused away.
 *
 * @param values Of the named dimensions: fused kernels have a largest depth.
 */
export function fuseAttention(graph: Graph, values: DimensionValues): GraphBody {
  const uses = new Map<Value, number>();
  const use = (value: Value) => uses.set(value, (uses.get(value) ?? 0) + 1);
  for (const { inputs } of graph.nodes) inputs.forEach(use);
  graph.outputs.forEach(use);

  const replaced = new Map<Value, Value>();
  const current = (value: Value) => replaced.get(value) ?? value;
  const nodes: Node[] = [];
  for (const node of graph.nodes) {
    const inputs = node.inputs.map(current);
    const match = matchAttention(node, uses, values);
    if (match)
      replaced.set(node.outputs[0]!, addFused(nodes, graph, match, node.outputs[0]!.type, current));
    else if (inputs.every((input, i) => input === node.inputs[i])) nodes.push(node);
    else {
      const copy = addNode(nodes, graph, { ...node, inputs });
      for (const [i, output] of node.outputs.entries()) replaced.set(output, copy.outputs[i]!);
    }
  }
  return { nodes, outputs: graph.outputs.map(current) };
}

function addNode(
  nodes: Node[],
  graph: Graph,
  { op, inputs, parameters, label }: Omit<Node, "outputs">,
): Node {
  const outputs: Value[] = [];
  const node: Node = { op, inputs, outputs, parameters, ...(label !== undefined && { label }) };
  const types = op.infer(
    inputs.map(({ type }) => type),
    parameters,
  );
  for (const [index, type] of types.entries())
    outputs.push(new Value(graph, type, { kind: "node", node, index }));
  nodes.push(node);
  return node;
}

function addFused(
  nodes: Node[],
  graph: Graph,
  match: Match,
  type: TensorType,
  current: (value: Value) => Value,
): Value {
  const add = (op: AnyOp, inputs: readonly Value[], parameters: object, label?: string): Value =>
    addNode(nodes, graph, { op, inputs, parameters, ...(label !== undefined && { label }) })
      .outputs[0]!;
  const reshape = (value: Value, shape: TensorType["shape"]) =>
    shape.length === value.type.shape.length ? value : add(reshapeOp, [value], { shape });
  // Leading axes become heads of one batch: [1, heads, rows, width]. A plain matrix stays one.
  const asHeads = (value: Value) => {
    const { shape } = value.type;
    if (shape.length === 2 || shape.length === 4) return value;
    return reshape(value, shape.length === 3 ? [1, ...shape] : [1, -1, ...shape.slice(-2)]);
  };
  const isIdentity = match.keyPermutation.every((axis, i) => axis === i);
  const source = current(match.keySource);
  const key = isIdentity
    ? source
    : add(transposeOp, [source], { permutation: match.keyPermutation });
  const inputs = [current(match.query), key, current(match.value)].map(asHeads);
  const parameters: FusedAttentionParameters = {
    scale: match.scale,
    ...(match.mask && { tensors: ["mask"] }),
  };
  if (match.mask) inputs.push(asHeads(current(match.mask)));
  const label = `attention, fused from ${match.ops.join(", ")}`;
  return reshape(add(scaledDotProductAttentionOp, inputs, parameters, label), type.shape);
}

function matchAttention(
  node: Node,
  uses: ReadonlyMap<Value, number>,
  values: DimensionValues,
): Match | undefined {
  if (node.op !== matmulOp) return undefined;
  const [weights, value] = node.inputs as [Value, Value];
  const ops = [node.op.name];

  /** The node that makes a value which nothing else uses, if it is of that op. */
  const sole = (of: Value, op: AnyOp): Node | undefined =>
    uses.get(of) === 1 && of.source.kind === "node" && of.source.node.op === op
      ? of.source.node
      : undefined;
  /** Looks through reshapes that keep the rows. */
  const throughViews = (of: Value): Value => {
    const view = sole(of, reshapeOp);
    const from = view?.inputs[0];
    return from && from.type.shape.at(-1) === of.type.shape.at(-1) ? throughViews(from) : of;
  };

  const softmax = sole(throughViews(weights), softmaxOp);
  if (!softmax) return undefined;
  ops.unshift(softmax.op.name);
  let scores = throughViews(softmax.inputs[0]!);

  let mask: Value | undefined;
  const add = sole(scores, binaryOps.add);
  if (add) {
    const isProduct = (side: Value) =>
      sole(throughViews(unscale(side, sole).value), matmulOp) !== undefined;
    const [x, y] = add.inputs as [Value, Value];
    const product = isProduct(x) ? x : y;
    mask = product === x ? y : x;
    if (mask.type.shape.length < 2) return undefined;
    scores = product;
    ops.unshift(add.op.name);
  }

  const scaled = unscale(throughViews(scores), sole);
  const product = sole(throughViews(scaled.value), matmulOp);
  if (!product) return undefined;
  const query = unscale(product.inputs[0]!, sole);
  const keySide = unscale(product.inputs[1]!, sole);
  if (keySide.value.source.kind !== "node" || keySide.value.source.node.op !== transposeOp)
    return undefined;
  const transpose = keySide.value.source.node;
  const key = unscale(transpose.inputs[0]!, sole);
  const { permutation } = transpose.parameters as { permutation: readonly number[] };

  // The weights' rows must be the scores' rows, batch by batch.
  const shape = weights.type.shape;
  const productShape = product.outputs[0]!.type.shape;
  if (
    shape.length !== productShape.length ||
    !shape.every((dimension, axis) => dimension === productShape[axis])
  )
    return undefined;
  if (mask && !mask.type.shape.every((dimension, axis) => dimension === shape[axis]))
    return undefined;
  for (const width of [query.value.type.shape.at(-1)!, value.type.shape.at(-1)!])
    if (evaluateDimension(width, values) > maximumDepth) return undefined;

  const factors = [scaled, query, keySide, key];
  if (factors.some(({ factor }) => factor !== 1)) ops.unshift(scaleOp.name);
  return {
    query: query.value,
    keySource: key.value,
    keyPermutation: [...permutation.slice(0, -2), ...permutation.slice(-2).reverse()],
    value,
    mask,
    scale: factors.reduce((scale, { factor }) => scale * factor, 1),
    ops: [matmulOp.name, ...ops],
  };
}

/** Takes multiplications by numbers off a value. */
function unscale(
  value: Value,
  sole: (of: Value, op: AnyOp) => Node | undefined,
): { value: Value; factor: number } {
  const scale = sole(value, scaleOp);
  if (!scale) return { value, factor: 1 };
  const inner = unscale(scale.inputs[0]!, sole);
  return {
    value: inner.value,
    factor: inner.factor * (scale.parameters as { factor: number }).factor,
  };
}
