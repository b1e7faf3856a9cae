import { type BenchCase, bytesMoved, dimensions, floatingPointOperations } from "./cases.ts";
import type { Ceilings } from "./ceilings.ts";
import type { PeerResult } from "./peers.ts";
import type { Measurement } from "./qkv.ts";

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
    `Ceilings of the same run: copy ${number(copy / 1e12)} TB/s, read ${number(read / 1e12)} TB/s, float32 ${number(float32 / 1e12)} TFLOP/s${matrix ? `, matrix units ${number(matrix / 1e12)} TFLOP/s` : ""}.`,
    "",
    "| case | qkv | of the ceiling | rate | largest error | reach, stretch (H100) | peers |",
    "|---|---|---|---|---|---|---|",
  ];
  for (const result of results.cases)
    for (const [i, measurement] of result.measurements.entries())
      lines.push(row(result, measurement, results.ceilings, i === 0));
  const walls = results.cases.flatMap(({ case: { name }, measurements }) =>
    measurements.flatMap(({ call, read, bare }) =>
      call && read && bare
        ? [
            `${name}, by the clock: a call done after ${microseconds(call.median)}, ${number(call.median / bare.median)} times a bare submission's ${microseconds(bare.median)}; its output read after ${microseconds(read.median)}.`,
          ]
        : [],
    ),
  );
  return `${[...lines, "", ...walls].join("\n").trimEnd()}\n`;
}

function row(
  { case: of, peers }: CaseResult,
  { variant, timing, correct, worst, error }: Measurement,
  ceilings: Ceilings,
  first: boolean,
): string {
  const name = `${of.name}: ${dimensions(of)}<br>${variant}`;
  if (!timing || worst === undefined) return `| ${name} | — ${error ?? ""} | | | | | |`;
  const seconds = timing.median * 1e-6;
  const bytes = bytesMoved(of) / seconds;
  const flops = floatingPointOperations(of) / seconds;
  const peak = (of.dtype === "float16" && ceilings.matrix) || ceilings.float32;
  const memoryBound = bytes / ceilings.read > flops / peak;
  const share = Math.max(bytes / ceilings.read, flops / peak);
  const rate = memoryBound ? `${number(bytes / 1e12)} TB/s` : `${number(flops / 1e12)} TFLOP/s`;
  const goal = of.goal ? of.goal.map((value) => microseconds(value)).join(", ") : "";
  const others = peers
    .filter((peer) => peer.timing)
    .sort((a, b) => a.timing!.median - b.timing!.median)
    .map(({ peer, timing }) => `${peer} ${microseconds(timing!.median)}`);
  const columns = [
    `${microseconds(timing.median)}${correct ? "" : " **wrong**"}`,
    `${Math.round(100 * share)} % of ${memoryBound ? "read" : "peak"}`,
    rate,
    worst.toExponential(1),
    first ? goal : "",
    first ? others.join("<br>") : "",
  ];
  return `| ${name} | ${columns.join(" | ")} |`;
}
