import { formatRate } from "../numbers/format.ts";
import { type Engine, engineNames } from "./messages.ts";
import type { Results } from "./results.ts";
import { bytesOf, flopsOf, sizeSets } from "./sizes.ts";

// Arithmetic against traffic, both on logarithmic axes: under the slope memory decides, under the flat roof
// arithmetic does.

const width = 640;
const height = 340;
const margin = { left: 64, right: 16, top: 16, bottom: 44 };

interface Point {
  readonly engine: Engine;
  readonly name: string;
  /** FLOP for each byte that must move. */
  readonly intensity: number;
  /** FLOP/s. */
  readonly rate: number;
}

export function Roofline({ results }: { results: Results }) {
  const points = results.rows.map(({ engine, size, seconds }): Point => {
    const measured = sizeSets[results.sizes][size]!;
    return {
      engine,
      name: measured.name,
      intensity: flopsOf(measured) / bytesOf(measured),
      rate: flopsOf(measured) / seconds,
    };
  });
  if (points.length === 0) return null;
  const { peaks } = results;
  const rates = points.map(({ rate }) => rate).concat(peaks ? [peaks.flopsPerSecond] : []);
  const bottom = Math.floor(Math.log10(Math.min(...rates)) - 0.2);
  const top = Math.ceil(Math.log10(Math.max(...rates)) + 0.1);
  const left = -2; // 2^left FLOP/byte
  const right = 10;
  const x = (intensity: number) =>
    margin.left +
    ((Math.log2(intensity) - left) / (right - left)) * (width - margin.left - margin.right);
  const y = (rate: number) =>
    margin.top +
    (1 - (Math.log10(rate) - bottom) / (top - bottom)) * (height - margin.top - margin.bottom);
  const ridge = peaks && peaks.flopsPerSecond / peaks.bytesPerSecond;
  const roof =
    peaks &&
    ridge &&
    [
      [2 ** left, peaks.bytesPerSecond * 2 ** left],
      [
        Math.min(ridge, 2 ** right),
        Math.min(peaks.flopsPerSecond, peaks.bytesPerSecond * 2 ** right),
      ],
      [2 ** right, Math.min(peaks.flopsPerSecond, peaks.bytesPerSecond * 2 ** right)],
    ]
      .map(([at, rate]) => `${x(at!)},${y(Math.max(rate!, 10 ** bottom))}`)
      .join(" ");
  const decades = Array.from({ length: top - bottom + 1 }, (_, i) => bottom + i);
  const summary = `Roofline: ${points.map(({ engine, name, rate }) => `${engineNames[engine]}, ${name}: ${formatRate(rate, "FLOP/s")}`).join("; ")}`;
  return (
    <svg class="roofline" viewBox={`0 0 ${width} ${height}`} role="img" aria-label={summary}>
      {decades.map((decade) => (
        <g key={decade} class="tick">
          <line
            x1={margin.left}
            x2={width - margin.right}
            y1={y(10 ** decade)}
            y2={y(10 ** decade)}
          />
          <text x={margin.left - 8} y={y(10 ** decade) + 4} text-anchor="end">
            {formatRate(10 ** decade, "")}
          </text>
        </g>
      ))}
      {[0, 2, 4, 6, 8, 10].map((power) => (
        <g key={power} class="tick">
          <line x1={x(2 ** power)} x2={x(2 ** power)} y1={margin.top} y2={height - margin.bottom} />
          <text x={x(2 ** power)} y={height - margin.bottom + 16} text-anchor="middle">
            {2 ** power}
          </text>
        </g>
      ))}
      <text class="axis" x={(margin.left + width) / 2} y={height - 8} text-anchor="middle">
        FLOP per byte that must move
      </text>
      <text
        class="axis"
        transform={`translate(14 ${height / 2 - 14}) rotate(-90)`}
        text-anchor="middle"
      >
        FLOP/s
      </text>
      {roof && <polyline class="roof" points={roof} />}
      {points.map(({ engine, name, intensity, rate }) => (
        <g
          key={`${engine} ${name}`}
          class={`point point-${engine}`}
          transform={`translate(${x(intensity)} ${y(rate)})`}
        >
          <title>
            {engineNames[engine]}, {name}: {formatRate(rate, "FLOP/s")} at{" "}
            {intensity.toPrecision(3)} FLOP/byte
          </title>
          <Mark engine={engine} />
        </g>
      ))}
    </svg>
  );
}

/** An engine's mark: told apart by shape, not only by color. */
export function Mark({ engine }: { engine: Engine }) {
  if (engine === "webgpu") return <circle r="5" />;
  if (engine === "cpu") return <rect x="-4.5" y="-4.5" width="9" height="9" />;
  return <path d="M0-6L5.5 4.5H-5.5Z" />;
}
