import { Command, InvalidArgumentError } from "commander";
import { InferenceSession } from "../src/index.ts";
import { attentionGraph, fusedAttentionGraph } from "./attention-graph.ts";
import { deviceOption, openDevice, type WithDevice } from "./device-option.ts";
import { print, printJSON } from "./text.ts";

interface Options extends WithDevice {
  readonly queries?: number;
  readonly keys: number;
  readonly depth: number;
  readonly valueDepth?: number;
  readonly steps?: true;
  readonly json?: true;
}

export function explainCommand(): Command {
  return new Command("explain")
    .summary("show the plan of an attention op for given shapes")
    .description(
      "Show what attention of these shapes runs: each step with its kernel, variant, grid and " +
        "workgroup memory, and each buffer with its bytes and the tensors that share it.",
    )
    .option("--queries <n>", "queries, as a matrix (default: one, as a vector)", count)
    .requiredOption("--keys <n>", "keys, and values", count)
    .requiredOption("--depth <n>", "length of a query and of a key", count)
    .option("--value-depth <n>", "length of a value (default: the depth)", count)
    .addOption(deviceOption("WebGPU if it is here, else the CPU"))
    .option("--steps", "of the op of seven steps, instead of the fused kernel")
    .option("--json", "print the plan as JSON")
    .addHelpText(
      "after",
      "\nExamples:\n" +
        "  qkv explain --keys 1000003 --depth 64\n" +
        "  qkv explain --queries 512 --keys 512 --depth 64 --value-depth 32 --json",
    )
    .action(
      async ({ queries, keys, depth, valueDepth = depth, device: kind, steps, json }: Options) => {
        const q = queries === undefined ? [depth] : [queries, depth];
        const shapes = { q, k: [keys, depth], v: [keys, valueDepth] };
        const graph = steps ? attentionGraph(shapes) : fusedAttentionGraph(shapes);
        using device = await openDevice(kind);
        using model = await new InferenceSession({ device }).load(graph);
        if (json) printJSON(model.plan());
        else print(model.explain());
      },
    );
}

/** An option's value that is a length. */
function count(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < 1 || !Number.isSafeInteger(value))
    throw new InvalidArgumentError("It must be an integer of 1 or more.");
  return value;
}
