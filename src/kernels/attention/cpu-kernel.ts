import { defineKernel } from "../../devices/kernel.ts";
import { attentionOnCpu } from "./cpu.ts";
import type { AttentionProblem } from "./problem.ts";
import { checkKvLengths } from "./spec.ts";
import { attentionLaunches } from "./wasm.ts";

/** {@link attentionOnCpu} as a kernel, and the same in WebAssembly. */
export const attentionCPU = defineKernel({
  name: "attention",
  tensors: {
    query: "read",
    key: "read",
    value: "read",
    pastKey: "read?",
    pastValue: "read?",
    mask: "read?",
    kvLengths: "read?",
    output: "write",
    lse: "write?",
    scores: "write?",
    softcappedScores: "write?",
    biasedScores: "write?",
    weights: "write?",
    presentKey: "write?",
    presentValue: "write?",
  },
  cpu: (tensors, { problem }: { readonly problem: AttentionProblem; readonly operation: string }) =>
    attentionOnCpu(problem, tensors),
  wasm: (tensors, { problem }, threads) => attentionLaunches(problem, tensors, threads),
  checkElements({ kvLengths }, { problem, operation }) {
    if (kvLengths) checkKvLengths(operation, problem, kvLengths);
  },
});
