import { formatDifference, formatRate, formatSeconds } from "../numbers/format.ts";
import { engineNames } from "./messages.ts";
import { type Results, rowOf } from "./results.ts";
import { flopsOf, sizeSets } from "./sizes.ts";

/** A result that differs by more from qkv's on the CPU is not the same computation. */
const mostDifference = 1e-3;

/** Times as bars, on one scale for each size. */
export function Bars({ results }: { results: Results }) {
  return (
    <div class="bars">
      {sizeSets[results.sizes].map((size, index) => {
        const rows = results.engines.map((engine) => rowOf(results, engine, index));
        const longest = Math.max(...rows.map((row) => row?.seconds ?? 0));
        return (
          <section key={size.name} aria-label={size.name}>
            <h4>
              {size.name}{" "}
              <span class="muted">
                {size.heads} heads, {size.queries} × {size.keys}
              </span>
            </h4>
            {results.engines.map((engine, i) => {
              const row = rows[i];
              return (
                <div key={engine} class={`bar bar-${engine}`}>
                  <span>{engineNames[engine]}</span>
                  <span class="bar-track">
                    {row && (
                      <span
                        class="bar-fill"
                        style={{ width: `${Math.max((100 * row.seconds) / longest, 0.5)}%` }}
                      />
                    )}
                  </span>
                  <span class="bar-value">
                    {row && (row.difference ?? 0) > mostDifference && (
                      <b class="error-text">off by {formatDifference(row.difference!)} · </b>
                    )}
                    {row
                      ? `${formatSeconds(row.seconds)} · ${formatRate(flopsOf(size) / row.seconds, "FLOP/s")}`
                      : (results.failures[engine] && "failed") || "…"}
                  </span>
                </div>
              );
            })}
          </section>
        );
      })}
    </div>
  );
}
