import { maximumDepth } from "../../kernels/attention/spec.ts";
import {
  type Dimension,
  type DimensionValues,
  evaluateDimension,
  multiplyDimensions,
} from "../dimension.ts";
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
import { TensorType } from "../tensor-type.ts";
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
  /** Number of keys. */
  readonly keys: Dimension;
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
    const undone = undoneTranspose(node.op, inputs, node.parameters);
    if (match)
      replaced.set(node.outputs[0]!, addFused(nodes, graph, match, node.outputs[0]!.type, current));
    else if (undone) replaced.set(node.outputs[0]!, undone);
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

/** What a transpose gives that undoes the transpose before it. */
function undoneTranspose(
  op: AnyOp,
  [input]: readonly Value[],
  parameters: object,
): Value | undefined {
  if (op !== transposeOp || input?.source.kind !== "node" || input.source.node.op !== transposeOp)
    return undefined;
  const [outer, inner] = [parameters, input.source.node.parameters] as [Permutation, Permutation];
  const isIdentity = outer.permutation.every((axis, i) => inner.permutation[axis] === i);
  return isIdentity ? input.source.node.inputs[0] : undefined;
}

interface Permutation {
  readonly permutation: readonly number[];
}

function addFused(
  nodes: Node[],
  graph: Graph,
  match: Match,
  type: TensorType,
  current: (value: Value) => Value,
): Value {
  const label = `attention, fused from ${match.ops.join(", ")}`;
  const add = (op: AnyOp, inputs: readonly Value[], parameters: object): Value =>
    addNode(nodes, graph, { op, inputs, parameters, label }).outputs[0]!;
  const reshape = (value: Value, shape: TensorType["shape"]) =>
    new TensorType(value.type.dtype, shape).equals(value.type)
      ? value
      : add(reshapeOp, [value], { shape });
  const { shape } = type;
  const lead = shape.slice(0, -2);
  // Leading axes become batch and heads. A plain matrix stays one.
  const asHeads = ([rows, width]: TensorType["shape"]): TensorType["shape"] =>
    lead.length === 0
      ? [rows!, width!]
      : [
          lead.length < 2 ? 1 : multiplyDimensions(...lead.slice(0, -1)),
          lead.at(-1)!,
          rows!,
          width!,
        ];
  const { scale } = match;
  const mask = match.mask && reshape(current(match.mask), asHeads([shape.at(-2)!, match.keys]));
  const options: FusedAttentionParameters = { scale, ...(mask && { tensors: ["mask"] }) };
  const rest = mask ? [mask] : [];

  const isIdentity = match.keyPermutation.every((axis, i) => axis === i);
  const packed = [
    sideBySide(match.query),
    sideBySide(match.keySource, isIdentity ? undefined : match.keyPermutation),
    sideBySide(match.value),
  ];
  const [first] = packed;
  if (first && packed.every((found) => found?.heads === first.heads)) {
    // As they lie: [batch, rows, heads · width], without a transpose.
    const heads = { queryHeads: first.heads, kvHeads: first.heads };
    const inputs = packed.map((found) => {
      const source = current(found!.source);
      return reshape(source, [1, ...source.type.shape].slice(-3));
    });
    const output = add(scaledDotProductAttentionOp, [...inputs, ...rest], { ...options, ...heads });
    const apart = reshape(output, [
      ...lead.slice(0, -1),
      shape.at(-2)!,
      first.heads,
      shape.at(-1)!,
    ]);
    return add(transposeOp, [apart], { permutation: first.permutation });
  }

  const source = current(match.keySource);
  const key = isIdentity
    ? source
    : add(transposeOp, [source], { permutation: match.keyPermutation });
  const inputs = [current(match.query), key, current(match.value)].map((value) =>
    reshape(value, asHeads(value.type.shape.slice(-2))),
  );
  return reshape(add(scaledDotProductAttentionOp, [...inputs, ...rest], options), shape);
}

/** Heads that lie side by side in a tensor `[…, rows, heads · width]`. */
interface SideBySide {
  readonly source: Value;
  readonly heads: number;
  /** Swaps heads and rows, either way. */
  readonly permutation: readonly number[];
}

/**
 * The tensor that `value`, `[…, heads, rows, width]`, was made of by a reshape and a transpose; or that
 * `permutation` of `value` would be.
 */
function sideBySide(value: Value, permutation?: readonly number[]): SideBySide | undefined {
  let [apart, axes] = [value, permutation];
  if (!axes) {
    if (value.source.kind !== "node" || value.source.node.op !== transposeOp) return undefined;
    apart = value.source.node.inputs[0]!;
    axes = (value.source.node.parameters as Permutation).permutation;
  }
  const rank = axes.length;
  if (rank < 3 || rank > 4 || apart.source.kind !== "node" || apart.source.node.op !== reshapeOp)
    return undefined;
  const swapped = axes.every(
    (axis, i) => axis === (i === rank - 3 ? rank - 2 : i === rank - 2 ? rank - 3 : i),
  );
  const source = apart.source.node.inputs[0]!;
  const [heads, width] = apart.type.shape.slice(-2) as [Dimension, Dimension];
  const together = [...apart.type.shape.slice(0, -2), multiplyDimensions(heads, width)];
  return swapped &&
    typeof heads === "number" &&
    source.type.equals(new TensorType(apart.type.dtype, together))
    ? { source, heads, permutation: axes }
    : undefined;
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
  /** Takes factors and reshapes off scores, in whatever order they come. */
  const peel = (of: Value): Scaled => {
    const { value: inner, factor } = unscale(throughViews(of), sole);
    if (inner === of) return { value: of, factor };
    const rest = peel(inner);
    return { value: rest.value, factor: factor * rest.factor };
  };
  let scaled = peel(softmax.inputs[0]!);
  let mask: Value | undefined;
  const add = scaled.factor === 1 ? sole(scaled.value, binaryOps.add) : undefined;
  if (add) {
    const [x, y] = add.inputs as [Value, Value];
    const isProduct = (side: Value) => sole(peel(side).value, matmulOp) !== undefined;
    const side = isProduct(x) ? x : y;
    mask = side === x ? y : x;
    scaled = peel(side);
    ops.unshift(add.op.name);
  }
  const product = sole(scaled.value, matmulOp);
  if (!product) return undefined;
  const query = unscale(product.inputs[0]!, sole);
  const keySide = unscale(product.inputs[1]!, sole);
  if (keySide.value.source.kind !== "node" || keySide.value.source.node.op !== transposeOp)
    return undefined;
  const transpose = keySide.value.source.node;
  const key = unscale(transpose.inputs[0]!, sole);
  const { permutation } = transpose.parameters as Permutation;

  // The weights' rows must be the scores' rows, batch by batch.
  const shape = weights.type.shape;
  const productShape = product.outputs[0]!.type.shape;
  if (
    shape.length !== productShape.length ||
    !shape.every((dimension, axis) => dimension === productShape[axis])
  )
    return undefined;
  if (mask && mask.type.shape.at(-1) !== shape.at(-1)) return undefined;
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
    keys: shape.at(-1)!,
    scale: factors.reduce((scale, { factor }) => scale * factor, 1),
    ops: [matmulOp.name, ...ops],
  };
}

/** A value, and the number that it is multiplied by. */
interface Scaled {
  readonly value: Value;
  readonly factor: number;
}

/** Takes multiplications by numbers off a value. */
function unscale(value: Value, sole: (of: Value, op: AnyOp) => Node | undefined): Scaled {
  const scale = sole(value, scaleOp);
  if (!scale) return { value, factor: 1 };
  const inner = unscale(scale.inputs[0]!, sole);
  return {
    value: inner.value,
    factor: inner.factor * (scale.parameters as { factor: number }).factor,
  };
}
