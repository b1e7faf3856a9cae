import type { AttentionDType, AttentionOutput } from "../../src/kernels/attention/problem.ts";
import type { AttentionOptions } from "../../src/kernels/attention/spec.ts";
import { checkDType, viewData } from "../../src/tensor/dtype.ts";
import { elementCount } from "../../src/tensor/shape.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { type OnnxCase, type OnnxTensor, onnxData } from "../vectors/onnx-attention.ts";
import { fromBase64 } from "./base64.ts";
import { type Tolerance, toleranceFor } from "./compare.ts";

/** A case of ONNX's backend tests as a call of `scaledDotProductAttention`. */
export interface OnnxCall {
  readonly query: Tensor;
  readonly key: Tensor;
  readonly value: Tensor;
  readonly options: AttentionOptions<Tensor>;
  readonly expected: Partial<Record<AttentionOutput, Tensor>>;
  readonly tolerance: Tolerance;
}

// By position: the node's inputs and outputs, and the modes of qk_matmul_output_mode.
const optionalInputs = ["mask", "pastKey", "pastValue", "kvLengths"] as const;
const qkOutputs = ["scores", "softcappedScores", "biasedScores", "weights"] as const;
// onnx.TensorProto.DataType; double precision is not below float32, which nothing is rounded to.
const precisions: Readonly<Record<number, AttentionDType>> = {
  1: "float32",
  10: "float16",
  11: "float32",
  16: "bfloat16",
};

/** Translates ONNX's inputs, attributes and outputs into ours. */
export function onnxCall({ attributes, inputs, outputs, rtol, atol }: OnnxCase): OnnxCall {
  const [query, key, value, ...rest] = inputs.map(read) as [Tensor, Tensor, Tensor, ...Tensor[]];
  const tensors = Object.fromEntries(optionalInputs.map((name, i) => [name, rest[i]]));
  const names = [
    "output",
    "presentKey",
    "presentValue",
    qkOutputs[attributes["qk_matmul_output_mode"] ?? 0]!,
  ] as const;
  const expected: Partial<Record<AttentionOutput, Tensor>> = {};
  for (const [i, output] of outputs.entries()) {
    const name = names[i];
    const wanted = read(output);
    if (name && wanted) expected[name] = wanted;
  }
  const precision = attributes["softmax_precision"];
  return {
    query,
    key,
    value,
    options: {
      ...tensors,
      scale: attributes["scale"],
      causal: attributes["is_causal"] === 1,
      softcap: attributes["softcap"],
      queryHeads: attributes["q_num_heads"],
      kvHeads: attributes["kv_num_heads"],
      softmaxDtype: precision === undefined ? undefined : precisions[precision],
      outputs: Object.keys(expected) as AttentionOutput[],
    },
    expected,
    // ONNX computed its bfloat16 results in bfloat16 throughout: they are up to two steps off the true
    // ones, which no kernel that adds up in float32 could match to within rtol.
    tolerance:
      query.dtype === "bfloat16"
        ? toleranceFor("bfloat16", "cpu")
        : { absolute: atol, relative: rtol },
  };
}

function read(stored: OnnxTensor | null): Tensor | undefined {
  if (stored === null) return undefined;
  const [dtype, shape, place] = stored;
  checkDType("onnx", dtype);
  const { buffer } = fromBase64(onnxData[place]!);
  return tensor(viewData(dtype, buffer, 0, elementCount(shape)), shape, dtype);
}
