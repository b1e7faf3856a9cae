// Which keys a query may see, and which rule forbids one.

export interface Rules {
  readonly causal: boolean;
  /** −1: open. */
  readonly left: number;
  readonly right: number;
  /** 1: may attend; row-major, `[queries, keys]`. */
  readonly mask: Uint8Array;
}

/** The rule that forbids a key, by the number of its hatching; 0: none does. */
export const rule = { none: 0, causal: 1, window: 2, mask: 3 } as const;

export type Rule = (typeof rule)[keyof typeof rule];

export const ruleNames: Readonly<Record<Rule, string>> = {
  0: "allowed",
  1: "causal",
  2: "window",
  3: "mask",
};

/** The first rule that forbids key `j` to query `i`. */
export function forbiddenBy(
  { causal, left, right, mask }: Rules,
  keys: number,
  i: number,
  j: number,
): Rule {
  if (causal && j > i) return rule.causal;
  if ((left >= 0 && j < i - left) || (right >= 0 && j > i + right)) return rule.window;
  return mask[i * keys + j] === 0 ? rule.mask : rule.none;
}

/** Masks to begin with. */
export const maskPresets = {
  none: () => true,
  documents: (i: number, j: number) => Math.floor(i / 5) === Math.floor(j / 5),
  prefix: (i: number, j: number) => j < 5 || j <= i,
  strided: (i: number, j: number) => i === j || (i - j) % 3 === 0,
} satisfies Record<string, (i: number, j: number) => boolean>;

export type MaskPreset = keyof typeof maskPresets;

export function makeMask(preset: MaskPreset, queries: number, keys: number): Uint8Array {
  return Uint8Array.from({ length: queries * keys }, (_, index) =>
    maskPresets[preset](Math.floor(index / keys), index % keys) ? 1 : 0,
  );
}
