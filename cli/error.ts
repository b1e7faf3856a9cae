import { CommanderError } from "commander";
import { DeviceLostError, GPUOperationError, QkvError } from "../src/index.ts";

/** Exit statuses, as `qkv --help` documents them. */
export const exitStatus = { success: 0, failure: 1, usage: 2 } as const;

/** What went wrong, said to the person at the command line in one sentence. */
export class CommandError extends Error {
  override name = "CommandError";
}

/** Why a system call failed, without its name and path: "no such file or directory". */
export function systemReason(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "EISDIR") return "it is a directory";
  return /^[A-Z0-9]+: (.*?)(,|$)/.exec(message)?.[1] ?? message;
}

/** A message on one line. */
export function oneLine(text: string): string {
  return text.trim().replace(/\s*\n\s*/g, " ");
}

/** Prints one line for an error that ended a command, and returns the exit status. */
export function reportError(command: string, error: unknown): number {
  if (error instanceof CommanderError)
    // Commander has printed it. Asking for help or the version ends a command too.
    return error.exitCode === 0 ? exitStatus.success : exitStatus.usage;
  const expected = [CommandError, QkvError, DeviceLostError, GPUOperationError].some(
    (kind) => error instanceof kind,
  );
  const message = error instanceof Error ? error.message : String(error);
  const hint = expected ? "" : "internal error, QKV_DEBUG=1 shows where: ";
  process.stderr.write(`${command}: ${hint}${oneLine(message)}\n`);
  if (process.env["QKV_DEBUG"] === "1") console.error(error);
  return exitStatus.failure;
}
