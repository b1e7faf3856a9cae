import type { Rules } from "./rules.ts";

/** Options of the section that are not rules. */
export interface Heads {
  readonly queryHeads: number;
  readonly kvHeads: number;
}

/** What the section computes. */
export interface Call extends Heads {
  readonly queries: number;
  readonly keys: number;
  readonly rules: Rules;
  readonly softcap: number;
}

/** Length of a query, of a key and of a value. */
export const depth = 16;

/** The call as a user writes it. */
export function callText({ queryHeads, kvHeads, queries, keys, rules, softcap }: Call): string {
  const { causal, left, right, mask } = rules;
  const options = [
    "device",
    ...(causal ? ["causal: true"] : []),
    ...(left >= 0 || right >= 0 ? [`window: [${left}, ${right}]`] : []),
    ...(softcap > 0 ? [`softcap: ${softcap}`] : []),
    ...(mask.includes(0) ? [`mask: tensor(mask, [${queries}, ${keys}], "bool")`] : []),
    'outputs: ["weights"]',
  ];
  return [
    `const q = tensor(queries, [1, ${queryHeads}, ${queries}, ${depth}]);`,
    `const k = tensor(keys, [1, ${kvHeads}, ${keys}, ${depth}]);`,
    `const v = tensor(values, [1, ${kvHeads}, ${keys}, ${depth}]);`,
    "const { output, weights } = await scaledDotProductAttention(q, k, v, {",
    ...options.map((option) => `  ${option},`),
    "});",
  ].join("\n");
}
