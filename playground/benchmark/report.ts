import { formatDifference, formatRate, formatSeconds } from "../numbers/format.ts";
import { engineNames } from "./messages.ts";
import { type Results, rowOf } from "./results.ts";
import { flopsOf, sizeSets } from "./sizes.ts";

/** Results as text, to send to someone. */
export function reportText(results: Results): string {
  const { engines, devices, failures, peaks } = results;
  const lines = ["qkv benchmark: attention, float32, depth 64", ""];
  for (const engine of engines) {
    const failure = failures[engine];
    const what = failure === undefined ? (devices[engine] ?? "not run") : `failed: ${failure}`;
    lines.push(`${engineNames[engine]}: ${what}`);
  }
  if (peaks)
    lines.push(
      `peaks of the GPU, measured: ${formatRate(peaks.flopsPerSecond, "FLOP/s")}, ${formatRate(peaks.bytesPerSecond, "B/s")}`,
    );
  lines.push("");
  for (const [index, size] of sizeSets[results.sizes].entries()) {
    lines.push(
      `${size.name}: ${size.heads} heads, ${size.queries} ${size.queries === 1 ? "query" : "queries"}, ${size.keys} keys`,
    );
    for (const engine of engines) {
      const row = rowOf(results, engine, index);
      if (!row) continue;
      const rate = formatRate(flopsOf(size) / row.seconds, "FLOP/s");
      const difference =
        row.difference === undefined
          ? ""
          : `, differs from the CPU by ${formatDifference(row.difference)}`;
      lines.push(
        `  ${engineNames[engine].padEnd(16)} ${formatSeconds(row.seconds).padStart(9)}  ${rate.padStart(14)}${difference}`,
      );
    }
  }
  return lines.join("\n");
}
