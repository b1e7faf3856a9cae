// The seven steps of attention on the built-in example, one kernel at a time, each result read back.

import {
  type Device,
  type ExplainedStep,
  InferenceSession,
  matmul,
  type Shape,
  softmaxInPlace,
  tensor,
  transpose,
} from "../src/index.ts";
import { attentionGraph } from "./attention-graph.ts";
import { largestDifference, tolerance } from "./reference.ts";
import * as seed42 from "./seed42.ts";

/** Keys of the example, and the length of its vectors. */
export const size = 16;

function decode(base64: string): Float32Array<ArrayBuffer> {
  return new Float32Array(Uint8Array.from(Buffer.from(base64, "base64")).buffer);
}

/** The example. */
export const example = {
  q: tensor(decode(seed42.q), [size]),
  k: tensor(decode(seed42.k), [size, size]),
  v: tensor(decode(seed42.v), [size, size]),
};

/** NumPy's results for it. */
export const numpy = {
  scores: decode(seed42.scores),
  weights: decode(seed42.weights),
  output: decode(seed42.expected),
};

/** A step, and the values that it left. */
export interface Step {
  readonly title: string;
  /** What happens in it, and why. */
  readonly text: string;
  /** The kernel that runs; a view needs none. */
  readonly kernel?: string;
  /** What the values are. */
  readonly name: string;
  readonly shape: Shape;
  readonly values: Float32Array;
  /** The largest difference from NumPy's values, where there are any. */
  readonly difference?: number;
  /** The step in the plan of the graph's op, on a device that records its steps. */
  readonly planned?: ExplainedStep;
}

/** A score computed by its definition, beside the one that the kernel computed. */
export interface HandCheck {
  readonly key: number;
  /** `q[i]`, `k[key][i]` and their product. */
  readonly products: readonly (readonly [q: number, k: number, product: number])[];
  readonly score: number;
  readonly kernelScore: number;
  readonly difference: number;
}

export interface WalkThrough {
  readonly steps: readonly Step[];
  readonly handChecks: readonly HandCheck[];
  /** Bytes of temporary memory, where the plan tells. */
  readonly temporaryBytes: number;
  readonly pass: boolean;
}

/** Scores that are computed by hand. */
const handChecked = 3;

/** Takes the steps on a device. */
export async function walkThrough(device: Device): Promise<WalkThrough> {
  using model = await new InferenceSession({ device }).load(
    attentionGraph({ q: example.q.shape, k: example.k.shape, v: example.v.shape }),
  );
  const plan = model.plan();

  using query = device.upload(tensor(example.q.data, [1, size]));
  using key = device.upload(example.k);
  using value = device.upload(example.v);
  using keyTransposed = device.allocate("float32", [size, size]);
  using scores = device.allocate("float32", [1, size]);
  using output = device.allocate("float32", [1, size]);

  device.enqueue(transpose, { input: key, output: keyTransposed });
  device.enqueue(matmul, { a: query, b: keyTransposed, output: scores });
  const scoreValues = await read(scores);
  device.enqueue(softmaxInPlace, { values: scores });
  const weightValues = await read(scores);
  device.enqueue(matmul, { a: scores, b: value, output });
  const outputValues = await read(output);

  const steps: Step[] = [
    {
      title: "See q as a matrix of one row",
      text: `a view: the same memory, as [1, ${size}]; nothing runs`,
      name: "q",
      shape: [1, size],
      values: await read(query),
    },
    {
      title: "Transpose K",
      text: "so that the product with q reads memory in order",
      kernel: transpose.name,
      name: "Kᵀ",
      shape: [size, size],
      values: await read(keyTransposed),
    },
    {
      title: "Scores = q·Kᵀ",
      text: "how well each key matches the query",
      kernel: matmul.name,
      name: "scores",
      shape: [1, size],
      values: scoreValues,
      difference: largestDifference(scoreValues, numpy.scores),
    },
    {
      title: "See the scores as a vector",
      text: `a view: the same memory, as [${size}]; nothing runs`,
      name: "scores",
      shape: [size],
      values: scoreValues,
    },
    {
      title: "Weights = softmax(scores), in place",
      text: "exp(score − largest score), divided by their sum",
      kernel: softmaxInPlace.name,
      name: "weights",
      shape: [size],
      values: weightValues,
      difference: largestDifference(weightValues, numpy.weights),
    },
    {
      title: "See the weights as a matrix of one row",
      text: `a view: the same memory, as [1, ${size}]; nothing runs`,
      name: "weights",
      shape: [1, size],
      values: weightValues,
    },
    {
      title: "Output = weights·V",
      text: "the weighted mean of the values, by the kernel of step 3",
      kernel: matmul.name,
      name: "output",
      shape: [1, size],
      values: outputValues,
      difference: largestDifference(outputValues, numpy.output),
    },
  ];
  const handChecks = Array.from({ length: handChecked }, (_, j) => byHand(j, scoreValues[j]!));
  const differences = [...steps, ...handChecks].map(({ difference = 0 }) => difference);
  return {
    steps:
      plan.steps.length === steps.length
        ? steps.map((step, i) => ({ ...step, planned: plan.steps[i]! }))
        : steps,
    handChecks,
    temporaryBytes: plan.temporaryBytes,
    pass: differences.every((difference) => difference <= tolerance),
  };
}

async function read(tensor: { read(): Promise<{ data: unknown }> }): Promise<Float32Array> {
  return (await tensor.read()).data as Float32Array;
}

function byHand(key: number, kernelScore: number): HandCheck {
  const row = example.k.data.subarray(key * size, (key + 1) * size);
  const products = Array.from(example.q.data, (q, i) => [q, row[i]!, q * row[i]!] as const);
  const score = products.reduce((sum, [, , product]) => sum + product, 0);
  return { key, products, score, kernelScore, difference: Math.abs(score - kernelScore) };
}
