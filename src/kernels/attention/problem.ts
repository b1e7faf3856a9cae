import type { DType } from "../../tensor/dtype.ts";

/** Dtypes of query, key, value and output. */
export type AttentionDType = "float32" | "float16" | "bfloat16";

/** What an attention call can return beside or instead of `output`; see `docs/attention.md`. */
export type AttentionOutput =
  | "output"
  | "lse"
  | "scores"
  | "softcappedScores"
  | "biasedScores"
  | "weights"
  | "presentKey"
  | "presentValue";

/** Elements between neighbours of a tensor seen as `[batch, heads, rows, depth]`; depth is contiguous. */
export interface RowStrides {
  readonly batch: number;
  readonly head: number;
  readonly row: number;
}

/** A mask seen as `[batch, queryHeads, queries, keys]`; an axis that broadcasts has stride 0. */
export interface MaskLayout {
  /** `bool`: true (1) allows the key. A float dtype: added to the score. */
  readonly dtype: DType;
  readonly strides: {
    readonly batch: number;
    readonly head: number;
    readonly query: number;
    readonly key: number;
  };
  /** Keys that the mask covers; those from here on are forbidden. All keys where its last axis is 1. */
  readonly keys: number;
}

/**
 * One attention call, checked, with every default filled in and every layout reduced to strides: what
 * the reference, the kernels and the choice between them work from. Plain data.
 */
export interface AttentionProblem {
  readonly dtype: AttentionDType;
  readonly batch: number;
  readonly queryHeads: number;
  readonly kvHeads: number;
  /** Query rows of a head. */
  readonly queries: number;
  /** Keys of a head, those of the past included. */
  readonly keys: number;
  /** Length of a query and of a key. */
  readonly depth: number;
  /** Length of a value. */
  readonly valueDepth: number;
  /** Keys of the past: the first `past` of `keys`. Query row i sits at position past + i. */
  readonly past: number;
  readonly scale: number;
  /** softcap · tanh(score / softcap) is applied where this is above 0. */
  readonly softcap: number;
  readonly causal: boolean;
  /** Keys seen to the left and right of a query's position; −1 leaves a side open. */
  readonly window: readonly [left: number, right: number];
  readonly mask?: MaskLayout;
  /** Whether an int32 `[batch]` tensor gives each batch's number of keys. Never with a past. */
  readonly kvLengths: boolean;
  /** Where set, the softmax input is rounded to this dtype first. */
  readonly softmaxDtype?: AttentionDType;
  /** What is wanted, `output` always among them. */
  readonly outputs: readonly AttentionOutput[];
  /**
   * Strides of query, of key and value *after* the past is put before them (where there is a past, both
   * are the contiguous `[batch, kvHeads, keys, depth]`), and of the output.
   */
  readonly strides: {
    readonly query: RowStrides;
    readonly key: RowStrides;
    readonly value: RowStrides;
    readonly output: RowStrides;
  };
}
