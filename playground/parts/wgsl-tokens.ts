/** What a piece of WGSL is; undefined: nothing special. */
export type TokenKind = "comment" | "keyword" | "type" | "number" | "attribute" | "function";

export interface Token {
  readonly kind: TokenKind | undefined;
  readonly text: string;
}

const keywords =
  "alias|break|case|const|const_assert|continue|continuing|default|diagnostic|discard|else|enable|false|fn|for|if|let|loop|override|requires|return|struct|switch|true|var|while";
const types =
  "array|atomic|bool|f16|f32|i32|u32|vec[234][fhiu]?|mat[234]x[234][fh]?|ptr|storage|read|read_write|workgroup|uniform|private|function";

/** In the order of preference, one group each. */
const pattern = new RegExp(
  [
    String.raw`(?<comment>\/\/[^\n]*|\/\*[\s\S]*?\*\/)`,
    String.raw`(?<attribute>@\w+)`,
    String.raw`(?<keyword>\b(?:${keywords})\b)`,
    String.raw`(?<type>\b(?:${types})\b)`,
    String.raw`(?<function>\b[a-z_A-Z]\w*(?=\())`,
    String.raw`(?<number>\b(?:0x[\da-fA-F]+|\d+\.?\d*(?:e[-+]?\d+)?|\.\d+)[fhiu]?\b)`,
  ].join("|"),
  "y",
);

/** The first token at `at`, if something special begins there. */
export function wgslTokenAt(text: string, at: number): Token | undefined {
  pattern.lastIndex = at;
  const match = pattern.exec(text);
  if (!match) return undefined;
  const [kind] = Object.entries(match.groups!).find(([, group]) => group !== undefined)!;
  return { kind: kind as TokenKind, text: match[0] };
}

export function wgslTokens(text: string): Token[] {
  const tokens: Token[] = [];
  let plain = 0;
  for (let at = 0; at < text.length; ) {
    const word = /\w/.test(text[at - 1] ?? "") && /\w/.test(text[at]!);
    const token = word ? undefined : wgslTokenAt(text, at);
    if (!token) {
      at++;
      continue;
    }
    if (at > plain) tokens.push({ kind: undefined, text: text.slice(plain, at) });
    tokens.push(token);
    at += token.text.length;
    plain = at;
  }
  if (plain < text.length) tokens.push({ kind: undefined, text: text.slice(plain) });
  return tokens;
}
