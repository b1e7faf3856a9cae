import { type BenchCase, bytesMoved, dimensions, floatingPointOperations } from "./cases.ts";
import type { Ceilings } from "./ceilings.ts";
import type { PeerResult } from "./peers.ts";
import type { Measurement } from "./qkv.ts";
import type { Timing } from "./timer.ts";

/** All that a run measured, as it goes into the JSON file. */
export interface Results {
  readonly device: string;
  readonly runtime: string;
  readonly date: string;
  readonly timestamps: boolean;
  readonly ceilings: Ceilings;
  readonly cases: readonly CaseResult[];
}

export interface CaseResult {
  readonly case: BenchCase;
  readonly measurements: readonly Measurement[];
  readonly peers: readonly PeerResult[];
}

const number = (value: number, digits = 3): string =>
  Number(value.toPrecision(digits)).toLocaleString("en", { maximumSignificantDigits: digits });

const microseconds = (value: number): string => `${number(value, 4)} µs`;

/** The results as Markdown. */
export function formatResults(results: Results): string {
  const { copy, read, float32, matrix } = results.ceilings;
  const lines = [
    `${results.device}; ${results.runtime}; ${results.date}.`,
    `Times are medians by ${results.timestamps ? "GPU timestamps" : "the clock: this GPU has no timestamps"}.`,
    "",
    `Ceilings of the same run: copy ${number(copy / 1e12)} TB/s, read ${number(read / 1e12)} TB/s, float32 ${number(float32 / 1e12)} TFLOP/s${matrix ? `, matrix units ${number(matrix / 1e12)} TFLOP/s` : ""}. Peaks are those of the matrix units for float16, where there are any, and else float32's.`,
    "",
    "| case | kernel | time | TFLOP/s (of peak) | TB/s (of read) | largest error | reach, stretch (H100) |",
    "|---|---|---|---|---|---|---|",
  ];
  for (const result of results.cases)
    for (const [i, measurement] of result.measurements.entries())
      lines.push(row(result, measurement, results.ceilings, i === 0));
  lines.push(...peerTable(results.cases));
  const walls = results.cases.flatMap(({ case: { name }, measurements }) =>
    measurements.flatMap(({ roundTrips }) => {
      if (!roundTrips) return [];
      const { call, read, encoded, dispatch, submission } = roundTrips;
      const done = ({ median }: Timing) =>
        `${microseconds(median)} (${number(median / dispatch.median)}×)`;
      return [
        `${name}, by the clock, and as a multiple of an empty dispatch's ${microseconds(dispatch.median)}: a call done after ${done(call)}, the same commands in an encoder of one's own after ${done(encoded)}, a call's output read after ${done(read)}, an empty submission done after ${done(submission)}.`,
      ];
    }),
  );
  return `${[...lines, "", ...walls].join("\n").trimEnd()}\n`;
}

function row(
  { case: of }: CaseResult,
  { variant, timing, correct, worst, error }: Measurement,
  ceilings: Ceilings,
  first: boolean,
): string {
  const name = first ? `${of.name}: ${dimensions(of)}` : "";
  if (!timing || worst === undefined) return `| ${name} | ${variant} | ${absent(error)} | | | | |`;
  const seconds = timing.median * 1e-6;
  const bytes = bytesMoved(of) / seconds;
  const flops = floatingPointOperations(of) / seconds;
  const peak = (of.dtype === "float16" && ceilings.matrix) || ceilings.float32;
  const [reach] = of.goal ?? [];
  const columns = [
    `${microseconds(timing.median)}${correct ? "" : " **wrong**"}`,
    `${number(flops / 1e12)} (${percent(flops / peak)})`,
    `${number(bytes / 1e12)} (${percent(bytes / ceilings.read)})`,
    worst.toExponential(1),
    first && of.goal && reach !== undefined
      ? `${of.goal.map(microseconds).join(", ")}${timing.median > reach ? " – missed" : ""}`
      : "",
  ];
  return `| ${name} | ${variant} | ${columns.join(" | ")} |`;
}

/** A row a case, a column a peer, where a peer's fastest variant stands for it. */
function peerTable(cases: readonly CaseResult[]): string[] {
  const names = [...new Set(cases.flatMap(({ peers }) => peers.map(({ peer }) => peer)))];
  if (names.length === 0) return [];
  const rows = cases.map(({ case: of, measurements, peers }) => {
    const ours = measurements[0]?.timing?.median;
    const cells = names.map((name) => {
      const results = peers.filter(({ peer }) => peer === name);
      const [best] = results
        .filter(({ timing }) => timing)
        .sort((a, b) => a.timing!.median - b.timing!.median);
      if (!best?.timing) return results.length > 0 ? absent(results[0]!.error) : "—";
      const { timing, variant, correct, worst } = best;
      const off = correct === false ? `, **off by ${worst?.toExponential(1) ?? "NaN"}**` : "";
      const ratio = ours === undefined ? "" : ` (${number(timing.median / ours)}×)`;
      return `${microseconds(timing.median)}${ratio}${variant ? ` ${variant}` : ""}${off}`;
    });
    return `| ${[of.name, ours === undefined ? "—" : microseconds(ours), ...cells].join(" | ")} |`;
  });
  return [
    "",
    "Peers, and in brackets how much faster qkv is (below 1×, slower). PyTorch is timed by CUDA events around as many calls as take a millisecond, as qkv is by timestamps; the others, which have no timestamps to give, by the clock: (t(n) − t(1)) / (n − 1) of n ops one after another on the same keys and values, which holds what JavaScript takes to start them. Results of jax-js and TensorFlow.js are compared with the reference as qkv's are, those of onnxruntime and PyTorch are not. TF32 is less precise than float32.",
    "",
    `| ${["case", "qkv", ...names].join(" | ")} |`,
    `|${"---|".repeat(names.length + 2)}`,
    ...rows,
  ];
}

const percent = (part: number): string => `${number(100 * part, part < 0.1 ? 1 : 2)} %`;

const absent = (error = ""): string =>
  `— ${error
    .replace(/^(\w*Error: )+/, "")
    .replaceAll("|", "/")
    .slice(0, 80)}`.trimEnd();
