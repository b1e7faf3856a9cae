import { typescriptLanguage } from "@codemirror/lang-javascript";
import { LanguageSupport, StreamLanguage } from "@codemirror/language";
import { parseMixed } from "@lezer/common";
import { type TokenKind, wgslTokenAt } from "../parts/wgsl-tokens.ts";

const names: Readonly<Record<TokenKind, string>> = {
  comment: "comment",
  keyword: "keyword",
  type: "typeName",
  number: "number",
  attribute: "meta",
  function: "variableName.function",
};

const wgsl = StreamLanguage.define({
  name: "wgsl",
  token(stream) {
    const token = wgslTokenAt(stream.string, stream.pos);
    if (token) {
      stream.pos += token.text.length;
      return names[token.kind!];
    }
    if (!stream.eatWhile(/\w/)) stream.next();
    return null;
  },
});

/** TypeScript whose template strings are WGSL where they look like it. */
export function typescriptWithWGSL(): LanguageSupport {
  const wrap = parseMixed((node, input) => {
    if (node.name !== "TemplateString") return null;
    if (!/@compute|@group|\bfn /.test(input.read(node.from, node.to))) return null;
    const overlay: { from: number; to: number }[] = [];
    let from = node.from + 1;
    for (let hole = node.node.firstChild; hole; hole = hole.nextSibling) {
      if (hole.name !== "Interpolation") continue;
      if (hole.from > from) overlay.push({ from, to: hole.from });
      from = hole.to;
    }
    if (node.to - 1 > from) overlay.push({ from, to: node.to - 1 });
    return overlay.length > 0 ? { parser: wgsl.parser, overlay } : null;
  });
  return new LanguageSupport(typescriptLanguage.configure({ wrap }));
}
