import { describe, test } from "node:test";
import { assert } from "chai";
import type { TensorShape } from "../../src/devices/kernel.ts";
import { attentionOnCpu } from "../../src/kernels/attention/cpu.ts";
import { attentionReferenceOf, toFloat64 } from "../../src/kernels/attention/reference.ts";
import { inverseRootDepth, resolveAttention, unscaled } from "../../src/kernels/attention/spec.ts";
import { allocateData } from "../../src/tensor/dtype.ts";
import { fromFloat32 } from "../../src/tensor/half.ts";
import { elementCount } from "../../src/tensor/shape.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { fromBase64 } from "../support/base64.ts";
import { assertClose } from "../support/compare.ts";
import { onnxCall } from "../support/onnx.ts";
import { onnxCases } from "../vectors/onnx-attention.ts";
import * as seed42 from "../vectors/seed42.ts";

describe("ONNX Attention", () => {
  for (const onnxCase of onnxCases)
    test(onnxCase.name, () => {
      const { query, key, value, options, expected, tolerance } = onnxCall(onnxCase);
      const { problem, outputShapes } = resolveAttention(
        "attention",
        query,
        key,
        value,
        options,
        inverseRootDepth,
      );
      const { mask, kvLengths, pastKey, pastValue } = options;
      const inputs = { query, key, value, mask, kvLengths, pastKey, pastValue };
      const reference = attentionReferenceOf(problem, inputs);
      const cpu: Record<string, Tensor> = {};
      const types = outputShapes as Readonly<Record<string, TensorShape>>;
      for (const [name, { dtype, shape }] of Object.entries(types))
        cpu[name] = { dtype, shape, data: allocateData(dtype, elementCount(shape)) };
      attentionOnCpu(problem, { ...inputs, ...cpu, output: cpu["output"]! });

      for (const name of problem.outputs) {
        const target = expected[name]!;
        const { dtype, shape } = target;
        assert.deepEqual(outputShapes[name], { dtype, shape });
        const numbers = toFloat64(target);
        const rounded =
          dtype === "float16" || dtype === "bfloat16"
            ? fromFloat32(reference[name], dtype)
            : Float32Array.from(reference[name]);
        assertClose(`reference ${name}`, { dtype, shape, data: rounded }, numbers, tolerance);
        assertClose(`cpu ${name}`, cpu[name]!, numbers, tolerance);
      }
    });
});

describe("NumPy's seed-42 example", () => {
  const read = (text: string, shape: readonly number[]) =>
    tensor(new Float32Array(fromBase64(text).buffer), shape);
  const [query, key, value] = [
    read(seed42.q, [16]),
    read(seed42.k, [16, 16]),
    read(seed42.v, [16, 16]),
  ];

  test("scores, weights and output agree to 1e-6", () => {
    const options = { outputs: ["scores", "weights"] } as const;
    const { problem } = resolveAttention("attention", query, key, value, options, unscaled);
    const inputs = { query, key, value };
    const reference = attentionReferenceOf(problem, inputs);
    const cpu = {
      output: tensor(new Float32Array(16)),
      scores: tensor(new Float32Array(16)),
      weights: tensor(new Float32Array(16)),
    };
    attentionOnCpu(problem, { ...inputs, ...cpu });
    for (const [name, text] of [
      ["output", seed42.expected],
      ["scores", seed42.scores],
      ["weights", seed42.weights],
    ] as const) {
      const tolerance = { absolute: 1e-6, relative: 0 };
      const expected = read(text, [16]);
      assertClose(`reference ${name}`, expected, reference[name], tolerance);
      assertClose(`cpu ${name}`, cpu[name], expected.data, tolerance);
    }
  });
});
