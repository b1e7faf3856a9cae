import type { Shape } from "qkv";

/** An input of a case: a shape, and its elements by their index. */
export interface CaseInput {
  readonly shape: Shape;
  readonly data: Float32Array;
}

/** Inputs, and what the op is to make of them. */
export interface ExerciseCase {
  /** What is special about it. */
  readonly title: string;
  readonly inputs: readonly CaseInput[];
  readonly expected: Float32Array;
}

/** A wish beyond the right result, checked on the plan. */
export interface PlanCheck {
  readonly title: string;
  /** @returns What is missing; undefined if it is met. */
  failure(plan: {
    readonly dispatches: number;
    readonly temporaryBytes: number;
  }): string | undefined;
}

/** What is to be written: an op, exported as `op`. */
export interface Exercise {
  readonly title: string;
  readonly goal: string;
  readonly hint: string;
  readonly starter: string;
  readonly solution: string;
  /** Largest |Δ| from the expected elements, relative to 1 + |expected|. */
  readonly tolerance: number;
  cases(): readonly ExerciseCase[];
  /** The case to time, and its work. */
  timed(): ExerciseCase & { readonly flops?: number; readonly bytes: number };
  readonly planChecks: readonly PlanCheck[];
}
