// The roofline of a run (S. Williams et al., "Roofline", 2009) as SVG:
//
//   node build/bench/gpu/roofline.js gpu.json > docs/roofline.svg

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type BenchCase, bytesMoved, floatingPointOperations } from "./cases.ts";
import type { PeerResult } from "./peers.ts";
import type { CaseResult, Results } from "./report.ts";

const width = 960;
const height = 640;
const area = { left: 96, right: width - 24, top: 64, bottom: height - 84 };

/** It has a background of its own, for pages of any colour. */
const style = `
    svg { --paper: #ffffff; --ink: #1f2328; --dim: #656d76; --grid: #e4e7eb; --float32: #0969da; --float16: #bc4c00; }
    @media (prefers-color-scheme: dark) {
      svg { --paper: #161b22; --ink: #e6edf3; --dim: #9198a1; --grid: #2b3138; --float32: #58a6ff; --float16: #f0883e; }
    }
    text { font: 13px system-ui, sans-serif; fill: var(--ink); }
    .dim { fill: var(--dim); font-size: 12px; }
    .peer { fill: var(--dim); font-size: 11px; }
    .grid { stroke: var(--grid); }
    .roof { stroke: var(--ink); stroke-width: 1.5; fill: none; }
    .copy { stroke-dasharray: 5 4; stroke-width: 1; }
    .leader { stroke: var(--dim); stroke-width: 0.75; }
    .float32 { --color: var(--float32); }
    .float16 { --color: var(--float16); }
    circle, .between { stroke: var(--color); stroke-width: 1.5; }
    .between { stroke-width: 1; stroke-dasharray: 1 3; }
    .qkv { fill: var(--color); }
    .best { fill: var(--paper); }`;

/** The fastest peer of the same precision whose result was not wrong. */
export function fastestPeer(peers: readonly PeerResult[]): PeerResult | undefined {
  return peers
    .filter(({ peer, timing, correct }) => timing && correct !== false && !peer.endsWith(", TF32"))
    .sort((a, b) => a.timing!.median - b.timing!.median)[0];
}

interface Point {
  readonly case: BenchCase;
  readonly intensity: number;
  readonly rate: number;
  readonly peer: string | undefined;
  readonly peerRate: number | undefined;
}

function pointOf({ case: of, measurements: [measurement], peers }: CaseResult): Point | undefined {
  if (!measurement?.timing) return undefined;
  const operations = floatingPointOperations(of);
  const rate = (microseconds: number) => operations / (microseconds * 1e-6);
  const best = fastestPeer(peers);
  return {
    case: of,
    intensity: operations / bytesMoved(of),
    rate: rate(measurement.timing.median),
    peer: best?.peer,
    peerRate: best?.timing && rate(best.timing.median),
  };
}

interface Box {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

const overlap = (a: Box, b: Box): boolean =>
  a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;

const around = (x: number, y: number, radius: number): Box => ({
  x: x - radius,
  y: y - radius,
  width: 2 * radius,
  height: 2 * radius,
});

const textWidth = (text: string, fontSize: number): number => text.length * fontSize * 0.57;

/** Finds room for labels: beside their points, further off with a line to them, or along lines. */
class Labels {
  readonly #taken: Box[] = [];

  take(box: Box): void {
    this.#taken.push(box);
  }

  takeLine(x1: number, y1: number, x2: number, y2: number): void {
    const steps = Math.ceil(Math.hypot(x2 - x1, y2 - y1) / 4);
    for (let i = 0; i <= steps; i++)
      this.take(around(x1 + ((x2 - x1) * i) / steps, y1 + ((y2 - y1) * i) / steps, 2));
  }

  /** Where there is no room, undefined. */
  place(
    text: string,
    x: number,
    y: number,
    fontSize: number,
    distances: readonly number[],
  ): string | undefined {
    const size = { width: textWidth(text, fontSize), height: fontSize + 3 };
    for (const distance of distances)
      for (const degrees of [0, 30, -30, 180, 150, 210, 60, -60, 90, 270, 120, 240]) {
        const [dx, dy] = [Math.cos(degrees / 57.2958), Math.sin(degrees / 57.2958)];
        // The middle of the side of the label that looks at the point.
        const [toX, toY] = [x + distance * dx, y + distance * dy];
        const box = {
          ...size,
          x: toX - (size.width * (1 - dx)) / 2,
          y: toY - (size.height * (1 - dy)) / 2,
        };
        if (
          box.x < area.left ||
          box.x + box.width > area.right ||
          box.y < area.top ||
          box.y + box.height > area.bottom ||
          this.#taken.some((each) => overlap(each, box))
        )
          continue;
        this.take(box);
        const leader =
          distance > 12
            ? `<line class="leader" x1="${at(x + 6 * dx)}" y1="${at(y + 6 * dy)}" x2="${at(toX)}" y2="${at(toY)}"/>`
            : "";
        const kind = fontSize < 13 ? ` class="peer"` : "";
        return `${leader}<text${kind} x="${at(box.x)}" y="${at(box.y + fontSize - 1)}">${escaped(text)}</text>`;
      }
    return undefined;
  }

  /** Along a line and `offset` below it, as near to its middle as there is room. */
  placeAlong(
    text: string,
    [x1, y1, x2, y2]: readonly [number, number, number, number],
    offset: number,
  ): string {
    const angle = Math.atan2(y2 - y1, x2 - x1);
    const half = textWidth(text, 12) / 2;
    const places = [0, 0.05, -0.05, 0.1, -0.1, 0.15, -0.15, 0.2, -0.2, 0.25, 0.3, 0.35].map(
      (part) => {
        const x = x1 + (0.5 + part) * (x2 - x1) - offset * Math.sin(angle);
        const y = y1 + (0.5 + part) * (y2 - y1) + offset * Math.cos(angle);
        const boxes = Array.from({ length: 21 }, (_, i) => {
          const along = half * (i / 10 - 1);
          return around(x + along * Math.cos(angle), y + along * Math.sin(angle), 5);
        });
        return { x, y, boxes };
      },
    );
    const free = places.find(({ boxes }) =>
      boxes.every((box) => !this.#taken.some((each) => overlap(each, box))),
    );
    const { x, y, boxes } = free ?? places[0]!;
    for (const box of boxes) this.take(box);
    return `<text class="dim" text-anchor="middle" dominant-baseline="central" transform="translate(${at(x)} ${at(y)}) rotate(${at(angle * 57.2958)})">${escaped(text)}</text>`;
  }
}

const at = (pixels: number): string => pixels.toFixed(1);

const escaped = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");

function inUnits(value: number, unit: string): string {
  const [scale, prefix] = [
    [1e15, "P"] as const,
    [1e12, "T"] as const,
    [1e9, "G"] as const,
    [1e6, "M"] as const,
  ].find(([least]) => value >= 0.9995 * least) ?? [1, ""];
  return `${Number((value / scale).toPrecision(3))} ${prefix}${unit}`;
}

/** The powers of ten from `low` to `high`. */
function decades(low: number, high: number): number[] {
  const first = Math.ceil(Math.log10(low));
  const count = Math.floor(Math.log10(high)) - first + 1;
  return Array.from({ length: count }, (_, i) => 10 ** (first + i));
}

export function roofline({ device, date, ceilings, cases }: Results): string {
  const { read, copy, float32, matrix } = ceilings;
  // What takes no longer than to start a kernel is bound by neither.
  const drawn = cases.filter(({ case: of }) => !of.roundTrip);
  const points = drawn.flatMap((result) => pointOf(result) ?? []);
  const peaks = [
    { kind: "float32", name: "float32 multiply-add", rate: float32 },
    { kind: "float16", name: "matrix units, float16", rate: matrix },
  ].filter(({ rate }) => rate > 0);
  const highest = Math.max(...peaks.map(({ rate }) => rate));
  const peakOf = ({ dtype }: BenchCase) => (dtype === "float16" && matrix) || float32;

  const intensities = [...points.map(({ intensity }) => intensity), highest / read];
  const rates = points.flatMap(({ rate, peerRate }) => [rate, peerRate ?? rate]);
  const low = { x: Math.min(...intensities) / 4, y: Math.min(...rates) / 3 };
  const high = { x: Math.max(...intensities) * 4, y: Math.max(...rates, highest) * 2.5 };
  const scale = (value: number, from: number, to: number, start: number, end: number) =>
    start + (Math.log(value / from) / Math.log(to / from)) * (end - start);
  const x = (intensity: number) => scale(intensity, low.x, high.x, area.left, area.right);
  const y = (rate: number) => scale(rate, low.y, high.y, area.bottom, area.top);

  const labels = new Labels();
  const grid = [
    ...decades(low.x, high.x).map(
      (value) =>
        `<line class="grid" x1="${at(x(value))}" y1="${area.top}" x2="${at(x(value))}" y2="${area.bottom}"/>` +
        `<text class="dim" x="${at(x(value))}" y="${area.bottom + 18}" text-anchor="middle">${Number(value.toPrecision(1))}</text>`,
    ),
    ...decades(low.y, high.y).map(
      (value) =>
        `<line class="grid" x1="${area.left}" y1="${at(y(value))}" x2="${area.right}" y2="${at(y(value))}"/>` +
        `<text class="dim" x="${area.left - 8}" y="${at(y(value) + 4)}" text-anchor="end">${inUnits(value, "FLOP/s")}</text>`,
    ),
  ];

  const bandwidths = [
    { name: "read", bandwidth: read, kind: "", side: read < copy ? 1 : -1 },
    { name: "copy", bandwidth: copy, kind: "copy", side: read < copy ? -1 : 1 },
  ].map((each) => {
    const start = Math.max(low.x, low.y / each.bandwidth);
    const end = highest / each.bandwidth;
    return { ...each, line: [x(start), y(start * each.bandwidth), x(end), y(highest)] as const };
  });
  const roofs = [
    ...bandwidths.map(({ kind, line }) => {
      labels.takeLine(...line);
      const [x1, y1, x2, y2] = line.map(at);
      return `<line class="roof ${kind}" x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}"/>`;
    }),
    ...peaks.map(({ kind, name, rate }) => {
      const [from, to, level] = [x(rate / read), area.right, y(rate)];
      const text = `${name}: ${inUnits(rate, "FLOP/s")}`;
      const textStart = to - textWidth(text, 12) - 4;
      labels.takeLine(from, level, to, level);
      labels.take({ x: textStart, y: level - 20, width: to - textStart, height: 18 });
      return (
        `<line class="roof ${kind}" x1="${at(from)}" y1="${at(level)}" x2="${to}" y2="${at(level)}"/>` +
        `<text class="dim" x="${to - 4}" y="${at(level - 6)}" text-anchor="end">${text}</text>`
      );
    }),
  ];

  for (const { intensity, rate, peerRate } of points) {
    labels.take(around(x(intensity), y(rate), 7));
    if (peerRate === undefined) continue;
    labels.take(around(x(intensity), y(peerRate), 6));
    labels.takeLine(x(intensity), y(rate), x(intensity), y(peerRate));
  }
  const names = points.map(({ case: of, intensity, rate }) => {
    const share = rate / Math.min(peakOf(of), intensity * read);
    const text = `${of.name}, ${Math.round(100 * share)} %`;
    return labels.place(text, x(intensity), y(rate), 13, [10, 18, 28, 40, 54, 70, 90, 120]) ?? "";
  });
  const peerNames = points.map(({ peer, intensity, peerRate }) =>
    peer === undefined
      ? ""
      : (labels.place(peer.split(" ")[0]!, x(intensity), y(peerRate!), 11, [9, 16, 24, 34]) ?? ""),
  );
  const bandwidthNames = bandwidths.map(({ name, bandwidth, line, side }) =>
    labels.placeAlong(`${name} ${inUnits(bandwidth, "B/s")}`, line, 12 * side),
  );
  const marks = points.flatMap(({ case: of, intensity, rate, peer, peerRate }) => {
    const circle = (kind: string, radius: number, value: number, who: string) =>
      `<circle class="${kind} ${of.dtype}" cx="${at(x(intensity))}" cy="${at(y(value))}" r="${radius}"><title>${escaped(`${of.name}: ${who} ${inUnits(value, "FLOP/s")}, ${inUnits(value / intensity, "B/s")}`)}</title></circle>`;
    const between = `<line class="between ${of.dtype}" x1="${at(x(intensity))}" y1="${at(y(rate))}" x2="${at(x(intensity))}" y2="${at(y(peerRate ?? rate))}"/>`;
    return [
      ...(peer === undefined ? [] : [between, circle("best", 4, peerRate!, peer)]),
      circle("qkv", 5, rate, "qkv"),
    ];
  });

  const legend = [
    `<circle class="qkv float32" cx="${area.left + 6}" cy="40" r="5"/><text x="${area.left + 18}" y="44">float32</text>`,
    `<circle class="qkv float16" cx="${area.left + 86}" cy="40" r="5"/><text x="${area.left + 98}" y="44">float16</text>`,
    `<circle class="best float16" cx="${area.left + 166}" cy="40" r="4"/><text x="${area.left + 178}" y="44">the fastest peer of the same precision</text>`,
    `<text class="dim" x="${area.right}" y="44" text-anchor="end">percent: of the roof above the point</text>`,
  ];
  const axes = [
    `<text x="${(area.left + area.right) / 2}" y="${height - 44}" text-anchor="middle">operations per byte, if each input is read once and the output written once (FLOP/B)</text>`,
    `<text class="dim" x="${area.left}" y="${height - 16}">${escaped(device)}; ${date}. Roofs were measured in the same run.</text>`,
  ];
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">
  <title>Roofline: attention on ${escaped(device)}</title>
  <style>${style}
  </style>
  <rect width="${width}" height="${height}" rx="8" style="fill: var(--paper)"/>
  <text x="${area.left}" y="24" style="font-weight: 600; font-size: 15px">qkv's kernels under the roofline</text>
  ${[...legend, ...grid, ...roofs, ...marks, ...names, ...peerNames, ...bandwidthNames, ...axes].filter(Boolean).join("\n  ")}
</svg>
`;
}

if (process.argv[1] === fileURLToPath(import.meta.url))
  process.stdout.write(roofline(JSON.parse(readFileSync(process.argv[2]!, "utf8"))));
