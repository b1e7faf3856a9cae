import { type Device, scaledDotProductAttention, type Tensor, tensor } from "qkv";
import { asMatrix, differences, largest, type Matrix } from "../numbers/matrix.ts";
import { random } from "../numbers/random.ts";
import { referenceAttention } from "../numbers/reference.ts";
import { type Call, depth } from "./call.ts";
import { forbiddenBy, rule } from "./rules.ts";

export interface CallResult {
  readonly call: Call;
  /** The weights of each query head. */
  readonly weights: readonly Matrix[];
  readonly output: readonly Matrix[];
  /** Of weights and output, from the definition in float64. */
  readonly difference: number;
}

function heads(tensor: Tensor): Matrix[] {
  return Array.from({ length: tensor.shape[1]! }, (_, head) => asMatrix(tensor, head));
}

/** Runs the call, and holds it against the definition. */
export async function runCall(device: Device, call: Call): Promise<CallResult> {
  const { queryHeads, kvHeads, queries, keys, rules, softcap } = call;
  const { normal } = random(11);
  const make = (headCount: number, rows: number, factor: number) =>
    tensor(
      Float32Array.from({ length: headCount * rows * depth }, () => factor * normal()),
      [1, headCount, rows, depth],
    );
  const q = make(queryHeads, queries, 1.6);
  const k = make(kvHeads, keys, 1.6);
  const v = make(kvHeads, keys, 1);
  const result = await scaledDotProductAttention(q, k, v, {
    device,
    causal: rules.causal,
    window: [rules.left, rules.right],
    softcap,
    ...(rules.mask.includes(0) && { mask: tensor(rules.mask, [queries, keys], "bool") }),
    outputs: ["weights"],
  });
  const weights = heads(result.weights!);
  const output = heads(result.output);
  const [queryRows, keyRows, valueRows] = [q, k, v].map(heads);
  const worst = weights.map((ours, head) => {
    const kvHead = Math.floor(head / (queryHeads / kvHeads));
    const expected = referenceAttention(queryRows![head]!, keyRows![kvHead]!, valueRows![kvHead]!, {
      scale: 1 / Math.sqrt(depth),
      softcap,
      allowed: (i, j) => forbiddenBy(rules, keys, i, j) === rule.none,
    });
    return Math.max(
      largest(differences(ours, expected.weights).data),
      largest(differences(output[head]!, expected.output).data),
    );
  });
  return { call, weights, output, difference: largest(worst) };
}
