// What the page and its worker tell each other.

/** Asks to run an exercise's code. */
export interface RunRequest {
  readonly exercise: number;
  readonly code: string;
}

export interface CheckResult {
  readonly title: string;
  /** What went wrong; undefined if it passed. */
  readonly failure: string | undefined;
  /** The largest difference, of a case that ran. */
  readonly difference?: number;
}

/** A complaint about the code. */
export interface Problem {
  readonly text: string;
  /** 1-based, in the code; missing where nobody knows. */
  readonly line?: number;
  readonly column?: number;
}

/** WGSL that does not compile: positions are in the module's text. */
export interface ShaderProblems {
  readonly wgsl: string;
  readonly messages: readonly {
    readonly line: number;
    readonly column: number;
    readonly text: string;
  }[];
}

export interface Timing {
  readonly title: string;
  readonly seconds: number;
  readonly flops?: number;
  readonly bytes: number;
}

export type RunReply =
  | { readonly kind: "progress"; readonly text: string }
  | {
      readonly kind: "checked";
      readonly checks: readonly CheckResult[];
      readonly timing: Timing | undefined;
      readonly plan: string;
      readonly device: string;
    }
  | { readonly kind: "problem"; readonly problem: Problem }
  | { readonly kind: "shader"; readonly problems: ShaderProblems; readonly message: string };
