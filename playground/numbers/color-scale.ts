// Colors of numbers, straight lines in OKLab (Björn Ottosson, https://bottosson.github.io/posts/oklab/):
// equal steps of a number are equal steps to the eye. Zero is the color of the page.

/**
 * `signed`: blue for what is below zero, orange above, from −limit to limit. `unsigned`: green, from 0 to
 * limit. `difference`: violet, likewise.
 */
export type ScaleKind = "signed" | "unsigned" | "difference";

type Lab = readonly [lightness: number, a: number, b: number];

/** Polar: lightness, chroma, hue in degrees. */
function lch(lightness: number, chroma: number, hue: number): Lab {
  const angle = (hue * Math.PI) / 180;
  return [lightness, chroma * Math.cos(angle), chroma * Math.sin(angle)];
}

interface Theme {
  readonly zero: Lab;
  readonly below: Lab;
  readonly above: Lab;
  readonly unsigned: Lab;
  readonly difference: Lab;
}

const themes: Readonly<Record<"light" | "dark", Theme>> = {
  light: {
    zero: lch(0.972, 0.004, 90),
    below: lch(0.45, 0.15, 258),
    above: lch(0.55, 0.155, 45),
    unsigned: lch(0.42, 0.085, 175),
    difference: lch(0.45, 0.17, 310),
  },
  dark: {
    zero: lch(0.235, 0.005, 265),
    below: lch(0.76, 0.12, 245),
    above: lch(0.78, 0.145, 55),
    unsigned: lch(0.86, 0.11, 170),
    difference: lch(0.75, 0.16, 315),
  },
};

export type ThemeName = keyof typeof themes;

/** Steps of a scale. */
const steps = 128;

/** A scale: CSS colors for −1 to 1, or for 0 to 1. */
export interface ColorScale {
  readonly kind: ScaleKind;
  /** The color of a value, with `limit` at the end of the scale. Beyond it, the end's. */
  color(value: number, limit: number): string;
  /** Evenly spaced colors from the lowest to the highest, for a legend. */
  readonly stops: readonly string[];
}

function mix(from: Lab, to: Lab, t: number): Lab {
  return [0, 1, 2].map((i) => from[i]! + (to[i]! - from[i]!) * t) as unknown as Lab;
}

/** sRGB, clipped. */
function css([lightness, a, b]: Lab): string {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  const channels = linear.map((x) => {
    const encoded = x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055;
    return Math.round(255 * Math.min(Math.max(encoded, 0), 1));
  });
  return `rgb(${channels.join(" ")})`;
}

function makeScale(kind: ScaleKind, theme: Theme): ColorScale {
  const arm = (end: Lab) =>
    Array.from({ length: steps + 1 }, (_, i) => css(mix(theme.zero, end, i / steps)));
  const above = arm(kind === "signed" ? theme.above : theme[kind]);
  const below = kind === "signed" ? arm(theme.below) : above;
  return {
    kind,
    color(value, limit) {
      const t = limit > 0 ? Math.min(Math.abs(value) / limit, 1) : 0;
      return (value < 0 ? below : above)[Math.round(t * steps)]!;
    },
    stops: kind === "signed" ? [...below].reverse().concat(above.slice(1)) : above,
  };
}

const scales = new Map<string, ColorScale>();

export function colorScale(kind: ScaleKind, theme: ThemeName): ColorScale {
  const key = `${kind} ${theme}`;
  const scale = scales.get(key) ?? makeScale(kind, themes[theme]);
  scales.set(key, scale);
  return scale;
}
