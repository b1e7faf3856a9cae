import type { ThemeName } from "../numbers/color-scale.ts";

// Hatchings for cells without a value: told apart by their direction, not only by their color.

interface Hatching {
  readonly light: string;
  readonly dark: string;
  /** The lines, in a square of 8. */
  readonly path: string;
}

const rising = "M-2 2L2 -2M0 8L8 0M6 10L10 6";
const falling = "M-2 6L2 10M0 0L8 8M6 -2L10 2";

/** 0: not a number; then causal, window, mask. */
const hatchings: readonly Hatching[] = [
  { light: "#b3261e", dark: "#ff8a80", path: `${rising}${falling}` },
  { light: "#9a9da3", dark: "#6f737a", path: rising },
  { light: "#9a9da3", dark: "#6f737a", path: falling },
  { light: "#9a9da3", dark: "#6f737a", path: "M0 2H8M0 6H8" },
];

const tiles = new Map<string, HTMLCanvasElement>();

/** The fill of a hatching. */
export function hatch(
  context: CanvasRenderingContext2D,
  number: number,
  theme: ThemeName,
): CanvasPattern {
  const key = `${number} ${theme}`;
  let tile = tiles.get(key);
  if (!tile) {
    tile = document.createElement("canvas");
    tile.width = tile.height = 8;
    const drawing = tile.getContext("2d")!;
    drawing.strokeStyle = hatchings[number]![theme];
    drawing.lineWidth = 1.4;
    drawing.stroke(new Path2D(hatchings[number]!.path));
    tiles.set(key, tile);
  }
  return context.createPattern(tile, "repeat")!;
}

/** A sample of a hatching, for legends. */
export function HatchSample({ number }: { number: number }) {
  const { path } = hatchings[number]!;
  return (
    <svg class="hatch-sample" viewBox="0 0 16 16" aria-hidden="true">
      <path d={path} />
      <path d={path} transform="translate(8)" />
      <path d={path} transform="translate(0 8)" />
      <path d={path} transform="translate(8 8)" />
    </svg>
  );
}
