import type { Op } from "qkv";
import * as qkv from "qkv";
import { transform } from "sucrase";
import type { Problem } from "./messages.ts";

/** The name of the code in stack traces. */
const file = "exercise.ts";

/** Lines that a function made of text puts before it, and the one added here. */
const linesBefore = 3;

/** Code that does not run. */
export class CodeError extends Error {
  readonly problem: Problem;

  constructor(problem: Problem) {
    super(problem.text);
    this.problem = problem;
  }
}

/** Strips the types of a module, runs it, and returns the op that it exports. */
export async function compile(code: string): Promise<Op> {
  let stripped: string;
  try {
    ({ code: stripped } = transform(code, {
      transforms: ["typescript", "imports"],
      disableESTransforms: true,
    }));
  } catch (error) {
    throw new CodeError(syntaxProblem(error));
  }
  const exports: { op?: Op } = {};
  const require = (name: string) => {
    if (name === "qkv") return qkv;
    throw new Error(`only "qkv" can be imported here, not ${JSON.stringify(name)}`);
  };
  try {
    const body = `return (async () => {\n${stripped}\n})();\n//# sourceURL=${file}`;
    await new Function("require", "exports", body)(require, exports);
  } catch (error) {
    throw new CodeError(problemOf(error));
  }
  if (!exports.op?.infer)
    throw new CodeError({
      text: "export an op by the name of `op`: export const op = defineOp({ … })",
    });
  return exports.op;
}

/** `Error transforming: Unexpected token (3:14)` */
function syntaxProblem(error: unknown): Problem {
  const message = error instanceof Error ? error.message : String(error);
  const [, line, column] = /\((\d+):(\d+)\)/.exec(message) ?? [];
  const text = message.replace(/^Error transforming[^:]*: /, "").replace(/ \(\d+:\d+\)$/, "");
  return line === undefined ? { text } : { text, line: Number(line), column: Number(column) };
}

/** An error that the code threw, with the innermost line of the code it came from. */
export function problemOf(error: unknown): Problem {
  if (!(error instanceof Error)) return { text: String(error) };
  const [, line, column] = new RegExp(`${file}:(\\d+):(\\d+)`).exec(error.stack ?? "") ?? [];
  const text = error.message;
  return line === undefined
    ? { text }
    : { text, line: Math.max(Number(line) - linesBefore, 1), column: Number(column) };
}
