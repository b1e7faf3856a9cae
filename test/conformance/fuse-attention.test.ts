import { before, describe, test } from "node:test";
import { assert } from "chai";
import { portableCapabilities } from "../../src/devices/capabilities.ts";
import {
  type DeviceTensor,
  type Dimension,
  type DimensionValues,
  type ExplainedPlan,
  Graph,
  InferenceSession,
  ops,
  type Shape,
  type Tensor,
  TensorType,
  tensor,
  type Value,
} from "../../src/index.ts";
import { elementCount } from "../../src/tensor/shape.ts";
import { assertClose } from "../support/compare.ts";
import { compileAtOnce } from "../support/compile-at-once.ts";
import { onEachDevice } from "../support/devices.ts";
import { PlanningDevice } from "../support/planning-device.ts";
import { random } from "../support/random.ts";

// The pass that finds attention in a graph of built-in ops. What it claims: the plan then has one attention
// and no product or softmax, and the result is that of the graph as it was written. That graph runs as it
// was written where the weights are an output too.

/** A graph written with matmul and softmax. */
interface Written {
  readonly inputs: readonly (readonly Dimension[])[];
  readonly values?: DimensionValues;
  /** Its output, and the weights: what the last product reads, or what softmax returns. */
  readonly forward: (...inputs: Value[]) => { readonly output: Value; readonly weights: Value };
  /** Names of the ops that become one, where they are not those of the plain form. */
  readonly from?: string;
  /** Kernels that stay beside the attention. Default: none. */
  readonly beside?: readonly string[];
}

const { add, matmul, mul, reshape, softmax, transpose } = ops;

/** softmax(scores)·v. */
function attend(scores: Value, v: Value) {
  const weights = softmax(scores);
  return { output: matmul(weights, v), weights };
}

function graphOf({ inputs, forward }: Written, withWeights: boolean): Graph {
  return new Graph("written", {
    inputTypes: inputs.map((shape) => new TensorType("float32", shape)),
    forward(...values) {
      const { output, weights } = forward(...values);
      return withWeights ? [output, weights] : output;
    },
  });
}

async function planOf(graph: Graph, values: DimensionValues = {}): Promise<ExplainedPlan> {
  const device = new PlanningDevice(portableCapabilities);
  using model = await new InferenceSession({ device }).load(graph);
  return model.plan(values);
}

/** The kernels of a plan, in order. */
const kernelsOf = ({ steps }: ExplainedPlan) =>
  steps.map(({ kernel }) => kernel).filter((kernel) => kernel !== "view");

const isAttention = (kernel: string) => /^attention_(prefill|decode)$/.test(kernel);

const matrix = [
  [4, 8],
  [6, 8],
  [6, 8],
] as const;
const threeD = matrix.map((shape) => [3, ...shape]);
const fourD = matrix.map((shape) => [2, 3, ...shape]);

const sideBySide = [
  [4, 24],
  [6, 24],
  [6, 24],
];
/** 3 heads of 8 apart. */
const heads = (x: Value, axes: readonly number[]) => transpose(reshape(x, [-1, 3, 8]), axes);

const fused: Readonly<Record<string, Written>> = {
  "2-D": { inputs: matrix, forward: (q, k, v) => attend(matmul(q!, transpose(k!)), v!) },
  "3-D": { inputs: threeD, forward: (q, k, v) => attend(matmul(q!, transpose(k!)), v!) },
  "4-D": { inputs: fourD, forward: (q, k, v) => attend(matmul(q!, transpose(k!)), v!) },
  "5-D": {
    inputs: matrix.map((shape) => [2, 1, 3, ...shape]),
    forward: (q, k, v) => attend(matmul(q!, transpose(k!)), v!),
  },
  "dimensions with names": {
    inputs: [
      ["heads", "queries", 8],
      ["heads", "keys", 8],
      ["heads", "keys", 8],
    ],
    values: { heads: 3, queries: 4, keys: 6 },
    forward: (q, k, v) => attend(matmul(q!, transpose(k!)), v!),
  },
  "values of another depth": {
    inputs: [
      [4, 8],
      [6, 8],
      [6, 10],
    ],
    forward: (q, k, v) => attend(matmul(q!, transpose(k!)), v!),
  },
  "the scores multiplied": {
    inputs: matrix,
    forward: (q, k, v) => attend(mul(matmul(q!, transpose(k!)), 0.3), v!),
    from: "matmul, scale, softmax, matmul",
  },
  "q multiplied": {
    inputs: threeD,
    forward: (q, k, v) => attend(matmul(mul(q!, -0.5), transpose(k!)), v!),
    from: "matmul, scale, softmax, matmul",
  },
  "k multiplied": {
    inputs: threeD,
    forward: (q, k, v) => attend(matmul(q!, transpose(mul(k!, 0.5))), v!),
    from: "matmul, scale, softmax, matmul",
  },
  "the transpose of k multiplied": {
    inputs: threeD,
    forward: (q, k, v) => attend(matmul(q!, mul(transpose(k!), 0.5)), v!),
    from: "matmul, scale, softmax, matmul",
  },
  "everything multiplied": {
    inputs: fourD,
    forward: (q, k, v) =>
      attend(mul(mul(matmul(mul(q!, 2), mul(transpose(mul(k!, 3)), 0.5)), 0.1), 1.5), v!),
    from: "matmul, scale, softmax, matmul",
  },
  "a mask added": {
    inputs: [...threeD, [3, 4, 6]],
    forward: (q, k, v, mask) => attend(add(matmul(q!, transpose(k!)), mask!), v!),
    from: "matmul, add, softmax, matmul",
  },
  "the scores added to a mask": {
    inputs: [...matrix, [4, 6]],
    forward: (q, k, v, mask) => attend(add(mask!, matmul(q!, transpose(k!))), v!),
    from: "matmul, add, softmax, matmul",
  },
  "a mask added after a factor": {
    inputs: [...fourD, [2, 3, 4, 6]],
    forward: (q, k, v, mask) => attend(add(mul(matmul(q!, transpose(k!)), 0.3), mask!), v!),
    from: "matmul, scale, add, softmax, matmul",
  },
  "a constant mask": {
    inputs: matrix,
    forward: (q, k, v) =>
      attend(add(matmul(q!, transpose(k!)), tensor(triangle(4, 6), [4, 6])), v!),
    from: "matmul, add, softmax, matmul",
  },
  "a mask that is itself a product": {
    inputs: [...matrix, [4, 5], [5, 6]],
    forward: (q, k, v, a, b) => attend(add(matmul(q!, transpose(k!)), matmul(a!, b!)), v!),
    from: "matmul, add, softmax, matmul",
    beside: ["matmul"],
  },
  "scores and weights reshaped": {
    inputs: threeD,
    forward(q, k, v) {
      const scores = reshape(matmul(q!, transpose(k!)), [12, 6]);
      const weights = reshape(softmax(scores), [3, 4, 6]);
      return { output: matmul(weights, v!), weights };
    },
  },
  "scores reshaped for a factor, back for a mask, and again for softmax": {
    inputs: [...threeD, [3, 4, 6]],
    forward(q, k, v, mask) {
      const scaled = reshape(mul(reshape(matmul(q!, transpose(k!)), [12, 6]), 0.3), [3, 4, 6]);
      const weights = reshape(softmax(reshape(add(scaled, mask!), [1, 12, 6])), [3, 4, 6]);
      return { output: matmul(weights, v!), weights };
    },
    from: "matmul, scale, add, softmax, matmul",
  },
  "heads side by side in q, k, v and the output": {
    inputs: sideBySide,
    forward(q, k, v) {
      const scores = mul(matmul(heads(q!, [1, 0, 2]), heads(k!, [1, 2, 0])), 0.35);
      const { output, weights } = attend(scores, heads(v!, [1, 0, 2]));
      return { output: reshape(transpose(output, [1, 0, 2]), [4, 24]), weights };
    },
    from: "matmul, scale, softmax, matmul",
  },
  "heads side by side, in batches, with a mask": {
    inputs: [...sideBySide.map((shape) => [2, ...shape]), [2, 3, 4, 6]],
    forward(q, k, v, mask) {
      const split = (x: Value) => transpose(reshape(x, [2, -1, 3, 8]), [0, 2, 1, 3]);
      const scores = add(matmul(split(q!), transpose(split(k!))), mask!);
      const { output, weights } = attend(scores, split(v!));
      return { output: reshape(transpose(output, [0, 2, 1, 3]), [2, 4, 24]), weights };
    },
    from: "matmul, add, softmax, matmul",
  },
  "heads side by side in q, k and v alone": {
    inputs: sideBySide,
    forward: (q, k, v) =>
      attend(matmul(heads(q!, [1, 0, 2]), heads(k!, [1, 2, 0])), heads(v!, [1, 0, 2])),
    beside: ["permute"],
  },
  "heads side by side in q alone": {
    inputs: [
      [4, 24],
      [3, 6, 8],
      [3, 6, 8],
    ],
    forward: (q, k, v) => attend(matmul(heads(q!, [1, 0, 2]), transpose(k!)), v!),
    beside: ["permute"],
  },
  "k transposed twice": {
    inputs: [
      [3, 4, 8],
      [6, 3, 8],
      [3, 6, 8],
    ],
    forward: (q, k, v) => attend(matmul(q!, transpose(transpose(k!, [1, 0, 2]))), v!),
    beside: ["permute"],
  },
  "work before and after": {
    inputs: matrix,
    forward(q, k, v) {
      const { output, weights } = attend(matmul(add(q!, q!), transpose(mul(k!, k!))), v!);
      return { output: add(output, q!), weights };
    },
    beside: ["add", "mul", "add"],
  },
  "the output used twice, through a reshape": {
    inputs: matrix,
    forward(q, k, v) {
      const { output, weights } = attend(matmul(q!, transpose(k!)), v!);
      return { output: add(mul(output, 2), reshape(reshape(output, [32]), [4, 8])), weights };
    },
    beside: ["scale", "add"],
  },
  "one tensor as q, k and v": {
    inputs: [[5, 8]],
    forward: (x) => attend(matmul(x!, transpose(x!)), x!),
  },
};

/** −∞ above the diagonal. */
function triangle(rows: number, columns: number): Float32Array {
  return Float32Array.from({ length: rows * columns }, (_, i) =>
    i % columns > Math.floor(i / columns) ? -Infinity : 0,
  );
}

const wide = (depth: number, valueDepth: number): Written => ({
  inputs: [
    [4, depth],
    [6, depth],
    [6, valueDepth],
  ],
  forward: (q, k, v) => attend(matmul(q!, transpose(k!)), v!),
});

// `output` here may be a list: everything that the graph returns.
type Kept = Pick<Written, "inputs"> & {
  readonly forward: (...inputs: Value[]) => Value | readonly Value[];
};
const notFused: Readonly<Record<string, Kept>> = {
  "the weights are an output": {
    inputs: matrix,
    forward(q, k, v) {
      const { output, weights } = attend(matmul(q!, transpose(k!)), v!);
      return [output, weights];
    },
  },
  "the weights are an output under another shape": {
    inputs: matrix,
    forward(q, k, v) {
      const { output, weights } = attend(matmul(q!, transpose(k!)), v!);
      return [output, reshape(weights, [24])];
    },
  },
  "the scores are an output": {
    inputs: matrix,
    forward(q, k, v) {
      const scores = matmul(q!, transpose(k!));
      return [scores, attend(scores, v!).output];
    },
  },
  "the scores times a factor are an output": {
    inputs: matrix,
    forward(q, k, v) {
      const scores = mul(matmul(q!, transpose(k!)), 0.3);
      return [attend(scores, v!).output, scores];
    },
  },
  "the scores before a factor are an output": {
    inputs: matrix,
    forward(q, k, v) {
      const scores = matmul(q!, transpose(k!));
      return [attend(mul(scores, 0.3), v!).output, scores];
    },
  },
  "the scores with a mask are an output": {
    inputs: [...matrix, [4, 6]],
    forward(q, k, v, mask) {
      const scores = add(matmul(q!, transpose(k!)), mask!);
      return [attend(scores, v!).output, scores];
    },
  },
  "the weights are used twice": {
    inputs: [...matrix, [6, 5]],
    forward(q, k, v, other) {
      const { output, weights } = attend(matmul(q!, transpose(k!)), v!);
      return [output, matmul(weights, other!)];
    },
  },
  "the scores are used twice": {
    inputs: [...matrix, [4, 6]],
    forward(q, k, v, other) {
      const scores = matmul(q!, transpose(k!));
      return [attend(scores, v!).output, mul(scores, other!)];
    },
  },
  "the scores are added to themselves": {
    inputs: matrix,
    forward(q, k, v) {
      const scores = matmul(q!, transpose(k!));
      return attend(add(scores, scores), v!).output;
    },
  },
  "a factor after the mask": {
    inputs: [...matrix, [4, 6]],
    forward: (q, k, v, mask) => attend(mul(add(matmul(q!, transpose(k!)), mask!), 0.5), v!).output,
  },
  "two masks": {
    inputs: [...matrix, [4, 6], [4, 6]],
    forward: (q, k, v, a, b) => attend(add(add(matmul(q!, transpose(k!)), a!), b!), v!).output,
  },
  "a factor that is a tensor": {
    inputs: [...matrix, [4, 6]],
    forward: (q, k, v, factor) => attend(mul(matmul(q!, transpose(k!)), factor!), v!).output,
  },
  "a factor on the weights": {
    inputs: matrix,
    forward: (q, k, v) => matmul(mul(softmax(matmul(q!, transpose(k!))), 0.5), v!),
  },
  "k is no transpose": {
    inputs: [
      [4, 8],
      [8, 6],
      [6, 8],
    ],
    forward: (q, k, v) => attend(matmul(q!, k!), v!).output,
  },
  "k is a transpose under another shape": {
    inputs: [
      [4, 8],
      [6, 8],
      [6, 8],
    ],
    forward: (q, k, v) => attend(matmul(q!, reshape(transpose(k!), [8, 6])), v!).output,
  },
  "no softmax": {
    inputs: matrix,
    forward: (q, k, v) => matmul(matmul(q!, transpose(k!)), v!),
  },
  "softmax of no product": {
    inputs: [
      [4, 6],
      [6, 8],
    ],
    forward: (scores, v) => attend(scores!, v!).output,
  },
  "the weights on the right": {
    inputs: [
      [4, 8],
      [6, 8],
      [5, 4],
    ],
    forward: (q, k, v) => matmul(v!, softmax(matmul(q!, transpose(k!)))),
  },
  "softmax over more or fewer keys than a row has": {
    inputs: [
      [4, 8],
      [6, 8],
      [3, 8],
    ],
    forward: (q, k, v) => attend(reshape(matmul(q!, transpose(k!)), [8, 3]), v!).output,
  },
  "rows of weights dealt to other batches": {
    inputs: [
      [2, 4, 8],
      [2, 6, 8],
      [4, 6, 8],
    ],
    forward: (q, k, v) => matmul(reshape(softmax(matmul(q!, transpose(k!))), [4, 2, 6]), v!),
  },
  "a depth over 512": { ...wide(513, 8), forward: (...x) => wide(513, 8).forward(...x).output },
  "a value depth over 512": {
    ...wide(8, 516),
    forward: (...x) => wide(8, 516).forward(...x).output,
  },
};

describe("attention found in graphs, the plan", () => {
  const plain = "matmul, softmax, matmul";

  for (const [name, written] of Object.entries(fused))
    test(`one dispatch: ${name}`, async () => {
      const { values, from = plain, beside = [] } = written;
      const plan = await planOf(graphOf(written, false), values);
      const kernels = kernelsOf(plan);
      const found = plan.steps.filter(({ kernel }) => isAttention(kernel));
      assert.lengthOf(found, 1, kernels.join());
      assert.deepEqual(
        kernels.filter((kernel) => !isAttention(kernel)),
        beside,
      );
      assert.equal(found[0]!.op, `attention, fused from ${from}`);
      if (beside.length === 0) assert.equal(plan.temporaryBytes, 0);
      // As it was written: a matrix of scores, at least.
      const kept = kernelsOf(await planOf(graphOf(written, true), values));
      assert.isFalse(kept.some(isAttention), kept.join());
      assert.include(kept, "softmax");
    });

  for (const [name, { inputs, forward }] of Object.entries(notFused))
    test(`left as written: ${name}`, async () => {
      const inputTypes = inputs.map((shape) => new TensorType("float32", shape));
      const kernels = kernelsOf(await planOf(new Graph("kept", { inputTypes, forward })));
      assert.isFalse(kernels.some(isAttention), kernels.join());
      assert.include(kernels, "matmul");
    });

  test("depths of 512 are fused", async () => {
    const kernels = kernelsOf(await planOf(graphOf(wide(512, 512), false)));
    assert.isTrue(kernels.length === 1 && isAttention(kernels[0]!), kernels.join());
  });

  test("a depth with a name is fused up to 512", async () => {
    const inputTypes = [
      ["n", "d"],
      ["m", "d"],
      ["m", "d"],
    ].map((shape) => new TensorType("float32", shape));
    const { forward } = wide(8, 8);
    const graph = new Graph("named", {
      inputTypes,
      forward: (...inputs) => forward(...inputs).output,
    });
    const at = async (d: number) => kernelsOf(await planOf(graph, { n: 4, m: 6, d }));
    assert.isTrue((await at(512)).every(isAttention));
    assert.isFalse((await at(513)).some(isAttention));
  });

  test("a factor that is also an output is made, and what is left is fused", async () => {
    const graph = new Graph("scaled q", {
      inputTypes: matrix.map((shape) => new TensorType("float32", shape)),
      forward(q, k, v) {
        const scaled = mul(q!, 0.3);
        return [attend(matmul(scaled, transpose(k!)), v!).output, scaled];
      },
    });
    const kernels = kernelsOf(await planOf(graph));
    assert.sameMembers(kernels, ["scale", kernels.find(isAttention)!]);
  });

  test("a transpose of k that is also an output is made, and what is left is fused", async () => {
    const graph = new Graph("transposed k", {
      inputTypes: matrix.map((shape) => new TensorType("float32", shape)),
      forward(q, k, v) {
        const transposed = transpose(k!);
        return [attend(matmul(q!, transposed), v!).output, transposed];
      },
    });
    const kernels = kernelsOf(await planOf(graph));
    assert.sameMembers(kernels, ["transpose", kernels.find(isAttention)!]);
  });

  test("two in one graph, the second of what the first returns", async () => {
    const graph = new Graph("two layers", {
      inputTypes: [[5, 8]].map((shape) => new TensorType("float32", shape)),
      forward(x) {
        const first = attend(matmul(x!, transpose(x!)), x!).output;
        return attend(mul(matmul(first, transpose(first)), 0.3), first).output;
      },
    });
    const kernels = kernelsOf(await planOf(graph));
    assert.isTrue(kernels.length === 2 && kernels.every(isAttention), kernels.join());
  });

  test("explain() names it", async () => {
    const device = new PlanningDevice(portableCapabilities);
    const model = await new InferenceSession({ device }).load(
      graphOf(fused["q multiplied"]!, false),
    );
    assert.match(
      model.explain(),
      /\d\. attention_\w+ \(of attention, fused from matmul, scale, softmax, matmul\)/,
    );
  });
});

/** The forms that run on a GPU: they share their kernels, which take seconds to compile without hardware. */
const onGPU = ["a mask added after a factor", "heads side by side, in batches, with a mask"];

onEachDevice("attention found in graphs, the result", (device, kind) => {
  before(() => compileAtOnce(device()));
  const load = (graph: Graph) => new InferenceSession({ device: device() }).load(graph);

  async function run(graph: Graph, inputs: readonly Tensor[]): Promise<Tensor[]> {
    using model = await load(graph);
    const results: DeviceTensor[] = model.execute(...inputs);
    const tensors = await Promise.all(results.map((result) => result.read()));
    for (const result of results) result.destroy();
    return tensors;
  }

  const numbers = (shapes: readonly Shape[]) => {
    const { normal } = random();
    return shapes.map((shape) =>
      tensor(Float32Array.from({ length: elementCount(shape) }, normal), shape),
    );
  };

  for (const [name, written] of Object.entries(fused)) {
    if (kind === "webgpu" && !onGPU.includes(name)) continue;
    test(name, async () => {
      const { inputs, values = {} } = written;
      const shapes = inputs.map((shape) => new TensorType("float32", shape).resolve(values));
      const tensors = numbers(shapes);
      const [output] = await run(graphOf(written, false), tensors);
      const [expected, weights] = await run(graphOf(written, true), tensors);
      assert.deepEqual(output!.shape, expected!.shape);
      assertClose("output", output!, expected!.data, { absolute: 1e-5, relative: 1e-4 });
      assert.isAbove(Math.max(...weights!.data), 0);
    });
  }

  if (kind === "cpu")
    test("two in one graph, the second of what the first returns", async () => {
      const graph = (withWeights: boolean) =>
        new Graph("two layers", {
          inputTypes: [new TensorType("float32", [5, 8])],
          forward(x) {
            const first = attend(matmul(x!, transpose(x!)), x!);
            const scores = mul(matmul(first.output, transpose(first.output)), 0.3);
            const second = attend(scores, first.output);
            const weights = [first.weights, second.weights];
            return [second.output, ...(withWeights ? weights : [])];
          },
        });
      const inputs = numbers([[5, 8]]);
      const [output] = await run(graph(false), inputs);
      const [expected] = await run(graph(true), inputs);
      assertClose("output", output!, expected!.data, { absolute: 1e-5, relative: 1e-4 });
    });
});
