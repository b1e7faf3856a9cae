import { colorScale, type ScaleKind } from "../numbers/color-scale.ts";
import { formatDifference, formatNumber } from "../numbers/format.ts";
import { useTheme } from "./theme.ts";

/** A color scale with its ends. */
export function Legend({ kind, limit }: { kind: ScaleKind; limit: number }) {
  const { stops } = colorScale(kind, useTheme());
  const format = kind === "difference" ? formatDifference : formatNumber;
  return (
    <span class="legend">
      <span>{kind === "signed" ? format(-limit) : "0"}</span>
      <span
        class="legend-bar"
        style={{ background: `linear-gradient(to right, ${stops.join(", ")})` }}
      />
      <span>{format(limit)}</span>
    </span>
  );
}
