import { typescriptLanguage } from "@codemirror/lang-javascript";
import type { SyntaxNode } from "@lezer/common";

// Where a line of WGSL stands in the TypeScript that made it. The text came out of a template string: its
// parts between the ${} holes are found again in the module's text, in order.

/** A part of a template that is the same in the code and in the result. */
interface Part {
  readonly from: number;
  readonly text: string;
}

/**
 * The offset in `code` of a 1-based position in `wgsl`; undefined where no template string of the code
 * makes that text.
 */
export function offsetInCode(
  code: string,
  wgsl: string,
  line: number,
  column: number,
): number | undefined {
  const target = offsetOf(wgsl, line, column);
  for (const parts of templates(code)) {
    const spans = match(parts, wgsl);
    if (!spans) continue;
    // The last part that begins at or before the position; inside a hole, the hole.
    const at = spans.findLastIndex((start) => start <= target);
    const { from, text } = parts[Math.max(at, 0)]!;
    return from + Math.min(target - spans[Math.max(at, 0)]!, text.length);
  }
  return undefined;
}

function offsetOf(text: string, line: number, column: number): number {
  let start = 0;
  for (let i = 1; i < line; i++) start = text.indexOf("\n", start) + 1;
  return start + column - 1;
}

/** The parts of each template string, the longest first. */
function templates(code: string): Part[][] {
  const found: Part[][] = [];
  typescriptLanguage.parser.parse(code).iterate({
    enter({ name, node }) {
      if (name === "TemplateString") found.push(partsOf(code, node));
    },
  });
  const length = (parts: readonly Part[]) => parts.reduce((sum, { text }) => sum + text.length, 0);
  return found.sort((a, b) => length(b) - length(a));
}

function partsOf(code: string, template: SyntaxNode): Part[] {
  const parts: Part[] = [];
  let from = template.from + 1;
  for (let hole = template.firstChild; hole; hole = hole.nextSibling) {
    if (hole.name !== "Interpolation") continue;
    parts.push({ from, text: code.slice(from, hole.from) });
    from = hole.to;
  }
  parts.push({ from, text: code.slice(from, template.to - 1) });
  return parts;
}

/** Where each part begins in the result; undefined if they are not its parts. */
function match(parts: readonly Part[], result: string): number[] | undefined {
  const starts: number[] = [];
  let at = 0;
  for (const [i, { text }] of parts.entries()) {
    const isLast = i === parts.length - 1;
    const start = i === 0 ? 0 : isLast ? result.length - text.length : result.indexOf(text, at);
    if (start < at || !result.startsWith(text, start)) return undefined;
    starts.push(start);
    at = start + text.length;
  }
  return at === result.length ? starts : undefined;
}
