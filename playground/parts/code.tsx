import type { JSX } from "preact";
import { wgslTokens } from "./wgsl-tokens.ts";

/** WGSL with its words told apart, and its lines numbered. */
export function WGSL({ text, label }: { text: string; label: string }) {
  const lines: JSX.Element[][] = [[]];
  for (const { kind, text: token } of wgslTokens(text.trim()))
    for (const [i, part] of token.split("\n").entries()) {
      if (i > 0) lines.push([]);
      const line = lines.at(-1)!;
      if (part !== "")
        line.push(
          <span key={line.length} class={kind && `token-${kind}`}>
            {part}
          </span>,
        );
    }
  return (
    <section class="code" aria-label={label}>
      <pre>
        <code>
          {lines.map((line, i) => (
            <span key={i} class="code-line">
              {line}
              {"\n"}
            </span>
          ))}
        </code>
      </pre>
    </section>
  );
}

/** Text as it is. */
export function Plain({ text, label }: { text: string; label: string }) {
  return (
    <section class="code plain" aria-label={label}>
      <pre>{text}</pre>
    </section>
  );
}
