// How the commands print: aligned columns, and a little colour where stdout is a terminal.

import { stripVTControlCharacters, styleText } from "node:util";

const colours =
  process.stdout.isTTY === true && process.stdout.hasColors() && !process.env["NO_COLOR"];

type Format = Parameters<typeof styleText>[0];

const style = (format: Format) => (text: string) => (colours ? styleText(format, text) : text);

export const bold = style("bold");
export const dim = style("dim");
export const green = style(["bold", "green"]);
export const red = style(["bold", "red"]);
export const yellow = style("yellow");

/** PASS or FAIL. */
export const verdict = (pass: boolean) => (pass ? green("PASS") : red("FAIL"));

/** Prints lines to stdout. */
export function print(...lines: readonly string[]): void {
  process.stdout.write(lines.map((line) => `${line.trimEnd()}\n`).join(""));
}

/** Prints a value as JSON to stdout. */
export function printJSON(value: unknown): void {
  print(JSON.stringify(value, null, 2));
}

const width = (text: string) => stripVTControlCharacters(text).length;

/**
 * Rows of cells as lines, two spaces apart and indented by two.
 *
 * @param alignment For each column `<` (left) or `>` (right).
 */
export function table(alignment: string, rows: readonly (readonly string[])[]): string[] {
  const widths = [...alignment].map((_, column) =>
    Math.max(...rows.map((row) => width(row[column] ?? ""))),
  );
  return rows.map((row) => {
    const cells = row.map((cell, column) => {
      const padding = " ".repeat(widths[column]! - width(cell));
      return alignment[column] === ">" ? padding + cell : cell + padding;
    });
    return `  ${cells.join("  ")}`.trimEnd();
  });
}

/** A count with separators: `1,000,003`. */
export const grouped = (count: number) => count.toLocaleString("en");

/** A size for people: `256 MB`. */
export function bytes(count: number): string {
  for (const [unit, size] of Object.entries({ GB: 1e9, MB: 1e6, kB: 1e3 }))
    if (count >= size) return `${(count / size).toPrecision(3)} ${unit}`;
  return `${count} B`;
}

/** A duration for people: `1.25 s`. */
export const seconds = (milliseconds: number) => `${(milliseconds / 1000).toFixed(2)} s`;

/** A difference: `3.7e-9`. */
export const difference = (value: number) => (value === 0 ? "0" : value.toExponential(1));

/** A shape: `[16, 64]`. */
export const shapeText = (shape: readonly number[]) => `[${shape.join(", ")}]`;
