import { describe, test } from "node:test";
import { assert } from "chai";
import fc from "fast-check";
import { attentionOnCpu } from "../../src/kernels/attention/cpu.ts";
import type { AttentionProblem } from "../../src/kernels/attention/problem.ts";
import { attentionReferenceOf } from "../../src/kernels/attention/reference.ts";
import {
  type AttentionOptions,
  attentionOutputs,
  resolveAttention,
  unscaled,
} from "../../src/kernels/attention/spec.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import {
  type AttentionCase,
  assertCase,
  attentionCase,
  attentionCases,
  poisonedOutputs,
} from "../support/attention-cases.ts";
import { random, sweep } from "../support/random.ts";

/** The reference of plain numbers. */
function reference(
  [q, k, v]: readonly [number[][], number[][], number[][]],
  options: AttentionOptions<Tensor> = {},
) {
  const [query, key, value] = [q, k, v].map((rows) =>
    tensor(rows.flat(), [rows.length, rows[0]!.length]),
  ) as [Tensor, Tensor, Tensor];
  const { problem } = resolveAttention("attention", query, key, value, options, unscaled);
  const { mask, kvLengths } = options;
  return attentionReferenceOf(problem, { query, key, value, mask, kvLengths });
}

const near = (got: ArrayLike<number>, expected: readonly number[]) => {
  assert.equal(got.length, expected.length);
  for (const [i, value] of expected.entries())
    if (Number.isFinite(value)) assert.closeTo(got[i]!, value, 1e-12);
    else assert.deepEqual(got[i], value);
};

const assertSame = (label: string, got: Float64Array, expected: Float64Array) => {
  const differs = got.findIndex((value, i) => {
    const target = expected[i]!;
    return value !== target && !(Math.abs(value - target) <= 1e-9 * (1 + Math.abs(target)));
  });
  if (differs >= 0)
    assert.fail(`${label}[${differs}]: ${got[differs]}, expected ${expected[differs]}`);
};

describe("attention reference: by hand", () => {
  // Scores ln 1, ln 2, ln 3 for q = 1; squares of those for q = 2.
  const keys = [[0], [Math.log(2)], [Math.log(3)]];
  const values = [[1], [10], [100]];
  const float32 = (x: number) => Math.fround(x);
  const [ln2, ln3] = [float32(Math.log(2)), float32(Math.log(3))];
  const softmax = (scores: number[]) => {
    const sum = scores.reduce((total, s) => total + Math.exp(s), 0);
    return scores.map((s) => Math.exp(s) / sum);
  };

  test("one query", () => {
    const { scores, weights, output, lse } = reference([[[1]], keys, values]);
    near(scores, [0, ln2, ln3]);
    const expected = softmax([0, ln2, ln3]);
    near(weights, expected);
    near(output, [expected[0]! + 10 * expected[1]! + 100 * expected[2]!]);
    near(lse, [Math.log(1 + Math.exp(ln2) + Math.exp(ln3))]);
  });

  test("scale, softcap and a float mask come in this order", () => {
    const mask = tensor([0.5, -Infinity, -0.25], [3]);
    const options = { scale: 2, softcap: 0.5, mask };
    const { scores, softcappedScores, biasedScores, weights } = reference(
      [[[1]], keys, values],
      options,
    );
    const capped = [0, 2 * ln2, 2 * ln3].map((s) => 0.5 * Math.tanh(s / 0.5));
    near(scores, [0, 2 * ln2, 2 * ln3]);
    near(softcappedScores, capped);
    near(biasedScores, [0.5, -Infinity, capped[2]! - 0.25]);
    const [first, last] = softmax([0.5, capped[2]! - 0.25]);
    near(weights, [first!, 0, last!]);
  });

  test("causal is the top-left triangle", () => {
    const { biasedScores } = reference([[[1], [1]], keys, values], { causal: true });
    near(biasedScores, [0, -Infinity, -Infinity, 0, ln2, -Infinity]);
  });

  test("kvLengths shifts positions, and what that leaves empty is zeros", () => {
    const kvLengths = tensor(new Int32Array([2]));
    const options = { causal: true, kvLengths };
    const { output, weights, lse } = reference([[[1], [1], [1]], keys, values], options);
    const [first, second] = softmax([0, ln2]);
    near(output, [0, 1, first! + 10 * second!]);
    near(weights, [0, 0, 0, 1, 0, 0, first!, second!, 0]);
    near(lse, [-Infinity, 0, Math.log(1 + Math.exp(ln2))]);
  });

  test("a window keeps the keys around the position", () => {
    const { biasedScores } = reference([[[1], [1], [1]], keys, values], { window: [1, 0] });
    const no = -Infinity;
    near(biasedScores, [0, no, no, 0, ln2, no, no, ln2, ln3]);
  });

  test("a short mask forbids the keys that it lacks", () => {
    const mask = tensor(new Uint8Array([1, 1]), [1, 2]);
    near(reference([[[1]], keys, values], { mask }).biasedScores, [0, ln2, -Infinity]);
  });

  test("NaN stays out of rows that may not see it, and reaches those that may", () => {
    const poisoned = [[1], [Number.NaN], [Infinity]];
    const { output, lse } = reference([[[1], [1], [1]], poisoned, poisoned], { causal: true });
    near(output, [1, Number.NaN, Number.NaN]);
    near(lse, [1, Number.NaN, Number.NaN]);
  });

  test("softmaxDtype rounds what the softmax reads, and nothing else", () => {
    const near1 = [[1], [1 + 2 ** -10]]; // one bfloat16 number
    const { scores, weights } = reference([[[1]], near1, [[1], [2]]], { softmaxDtype: "bfloat16" });
    near(scores, [1, 1 + 2 ** -10]);
    near(weights, [0.5, 0.5]);
  });
});

describe("attention reference: properties", () => {
  const cases = attentionCases(
    { work: 1e5 },
    { plant: "nothing", outputs: [], softmaxDtype: undefined },
  );

  test("each row of weights sums to 1, or to 0 where it is empty", () => {
    fc.assert(
      fc.property(cases, (description) => {
        const { problem, expected } = attentionCase(description);
        const { weights, lse } = expected();
        for (let row = 0; row < lse.length; row++) {
          const sum = weights
            .subarray(row * problem.keys, (row + 1) * problem.keys)
            .reduce((a, b) => a + b, 0);
          assert.closeTo(sum, lse[row] === -Infinity ? 0 : 1, 1e-9);
        }
      }),
      sweep(100),
    );
  });

  test("a permutation of the keys changes nothing", () => {
    const free = attentionCases(
      { work: 1e5, dtypes: ["float32"] },
      {
        layout: "matrix",
        plant: "nothing",
        causal: false,
        window: undefined,
        mask: undefined,
        kvLengths: false,
        past: 0,
        softmaxDtype: undefined,
      },
    );
    fc.assert(
      fc.property(free, (description) => {
        const { inputs, problem, expected } = attentionCase(description);
        const order = Array.from({ length: problem.keys }, (_, j) => j);
        const generator = random(description.seed);
        for (let j = order.length - 1; j > 0; j--) {
          const other = generator.integer(0, j);
          [order[j], order[other]] = [order[other]!, order[j]!];
        }
        const permuted = ({ data, shape }: Tensor) => {
          const width = shape[1]!;
          return tensor(
            order.flatMap((j) => [...data.subarray(j * width, (j + 1) * width)]),
            shape,
          );
        };
        const again = attentionReferenceOf(problem, {
          query: inputs.query,
          key: permuted(inputs.key),
          value: permuted(inputs.value),
        });
        assertSame("output", again.output, expected().output);
      }),
      sweep(60),
    );
  });

  test("shifting all the scores shifts lse and changes nothing else", () => {
    const unmasked = attentionCases(
      { work: 1e5 },
      { plant: "nothing", mask: undefined, softmaxDtype: undefined },
    );
    fc.assert(
      fc.property(unmasked, (description) => {
        const { inputs, problem, expected } = attentionCase(description);
        const mask = {
          dtype: "float32",
          strides: { batch: 0, head: 0, query: 0, key: 0 },
          keys: problem.keys,
        } as const;
        const shifted: AttentionProblem = { ...problem, mask };
        const { output, lse } = attentionReferenceOf(shifted, {
          ...inputs,
          mask: tensor([3.5], [1]),
        });
        assertSame("output", output, expected().output);
        assertSame(
          "lse",
          lse,
          expected().lse.map((value) => value + 3.5),
        );
      }),
      sweep(60),
    );
  });

  test("a query head of a group reads what its own key/value head holds", () => {
    const grouped = attentionCases(
      { work: 1e5 },
      {
        layout: "4-D",
        batch: 1,
        kvHeads: 2,
        group: 3,
        past: 0,
        mask: undefined,
        plant: "nothing",
        softmaxDtype: undefined,
      },
    );
    fc.assert(
      fc.property(grouped, (description) => {
        const { inputs, problem, expected } = attentionCase(description);
        const head = ({ data, shape, dtype }: Tensor, index: number) => {
          const size = shape[2]! * shape[3]!;
          return tensor(
            data.slice(index * size, (index + 1) * size),
            [1, 1, shape[2]!, shape[3]!],
            dtype,
          );
        };
        const size = problem.queries * problem.valueDepth;
        for (let h = 0; h < problem.queryHeads; h++) {
          const kvHead = Math.floor(h / (problem.queryHeads / problem.kvHeads));
          const alone = {
            query: head(inputs.query, h),
            key: head(inputs.key, kvHead),
            value: head(inputs.value, kvHead),
            kvLengths: inputs.kvLengths,
          };
          const single = { ...problem, queryHeads: 1, kvHeads: 1 };
          const { output } = attentionReferenceOf(single, alone);
          assert.deepEqual(output, expected().output.subarray(h * size, (h + 1) * size));
        }
      }),
      sweep(40),
    );
  });

  test("a key that no query may see changes nothing, whatever it holds", () => {
    const hidden = attentionCases({ work: 1e5 }, { plant: "forbidden", softmaxDtype: undefined });
    fc.assert(
      fc.property(hidden, (description) => {
        const poisoned = attentionCase(description).expected();
        const clean = attentionCase({ ...description, plant: "nothing" }).expected();
        for (const name of ["output", "lse", "weights", "biasedScores"] as const)
          assert.deepEqual(poisoned[name], clean[name], name);
      }),
      sweep(60),
    );
  });
});

describe("attention on the CPU against the reference", () => {
  const check = (attention: AttentionCase) => {
    const outputs = poisonedOutputs(attention);
    attentionOnCpu(attention.problem, { ...attention.inputs, ...outputs });
    assertCase(attention, outputs, "cpu");
  };

  test("random shapes, options and dtypes", () => {
    fc.assert(
      fc.property(attentionCases(), (description) => check(attentionCase(description))),
      sweep(300),
    );
  });

  for (const dtype of ["float32", "float16", "bfloat16"] as const)
    for (const layout of ["4-D", "packed"] as const)
      test(`every output at once: ${dtype}, ${layout}`, () => {
        const description = { dtype, layout, outputs: attentionOutputs } as const;
        fc.assert(
          fc.property(attentionCases({ work: 2e5 }, description), (d) => check(attentionCase(d))),
          sweep(20),
        );
      });
});
