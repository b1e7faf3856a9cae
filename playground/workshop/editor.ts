import { defaultKeymap, history, historyKeymap } from "@codemirror/commands";
import {
  bracketMatching,
  HighlightStyle,
  indentOnInput,
  syntaxHighlighting,
} from "@codemirror/language";
import { lintGutter, setDiagnostics } from "@codemirror/lint";
import { EditorState } from "@codemirror/state";
import {
  drawSelection,
  EditorView,
  highlightActiveLine,
  keymap,
  lineNumbers,
} from "@codemirror/view";
import { tags } from "@lezer/highlight";
import type { Problem, ShaderProblems } from "./messages.ts";
import { offsetInCode } from "./template-positions.ts";
import { typescriptWithWGSL } from "./wgsl-language.ts";

const colors = HighlightStyle.define([
  { tag: tags.comment, class: "token-comment" },
  { tag: [tags.keyword, tags.modifier, tags.operatorKeyword], class: "token-keyword" },
  { tag: [tags.typeName, tags.className], class: "token-type" },
  { tag: [tags.number, tags.bool, tags.null], class: "token-number" },
  { tag: [tags.string, tags.special(tags.string)], class: "token-string" },
  { tag: [tags.meta, tags.processingInstruction], class: "token-attribute" },
  {
    tag: [tags.function(tags.variableName), tags.function(tags.propertyName)],
    class: "token-function",
  },
]);

/** A problem at its place in the code. */
export interface PlacedProblem {
  readonly line?: number | undefined;
  readonly text: string;
}

/** The editor of an exercise. */
export interface Editor {
  readonly code: string;
  /** Replaces the code, without a call of `onChange`. */
  setCode(code: string): void;
  /** Marks problems at their lines. @returns Them with the lines found. */
  show(problems: readonly Problem[] | ShaderProblems): PlacedProblem[];
  goTo(line: number): void;
  destroy(): void;
}

export function createEditor(options: {
  readonly parent: HTMLElement;
  readonly code: string;
  readonly onChange: (code: string) => void;
  readonly onRun: () => void;
}): Editor {
  const { parent, code, onChange, onRun } = options;
  let quiet = false;
  const runKey = {
    key: "Mod-Enter",
    run: () => {
      onRun();
      return true;
    },
  };
  const view = new EditorView({
    parent,
    state: EditorState.create({
      doc: code,
      extensions: [
        lineNumbers(),
        history(),
        drawSelection(),
        highlightActiveLine(),
        indentOnInput(),
        bracketMatching(),
        lintGutter(),
        typescriptWithWGSL(),
        syntaxHighlighting(colors),
        // Tab is left to the page, so that the keyboard finds its way out.
        keymap.of([runKey, ...defaultKeymap, ...historyKeymap]),
        EditorView.contentAttributes.of({ "aria-label": "Code of the exercise" }),
        EditorView.updateListener.of(({ docChanged, state }) => {
          if (docChanged && !quiet) onChange(state.doc.toString());
        }),
      ],
    }),
  });
  const { scrollDOM } = view;
  scrollDOM.tabIndex = -1;
  return {
    get code() {
      return view.state.doc.toString();
    },
    setCode(text) {
      quiet = true;
      view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: text } });
      quiet = false;
      view.dispatch(setDiagnostics(view.state, []));
    },
    show(problems) {
      const { doc } = view.state;
      const placed = ("wgsl" in problems ? shaderProblems(doc.toString(), problems) : problems).map(
        (problem) => {
          const line = problem.line === undefined ? undefined : Math.min(problem.line, doc.lines);
          return { ...problem, line };
        },
      );
      const diagnostics = placed.flatMap(({ line, column = 1, text }) => {
        if (line === undefined) return [];
        const { from, to } = doc.line(line);
        const start = Math.min(from + column - 1, to);
        const word = /^\w+/.exec(doc.sliceString(start, to))?.[0].length ?? 1;
        const range = {
          from: start === to ? from : start,
          to: start === to ? to : Math.min(start + word, to),
        };
        return [{ ...range, severity: "error" as const, message: text }];
      });
      view.dispatch(setDiagnostics(view.state, diagnostics));
      return placed;
    },
    goTo(line) {
      const { from } = view.state.doc.line(line);
      view.dispatch({ selection: { anchor: from }, scrollIntoView: true });
      view.focus();
    },
    destroy: () => view.destroy(),
  };
}

/** Positions in the WGSL become positions in the code that made it. */
function shaderProblems(code: string, { wgsl, messages }: ShaderProblems): Problem[] {
  return messages.map(({ line, column, text }) => {
    const offset = offsetInCode(code, wgsl, line, column);
    if (offset === undefined)
      return { text: `${text} (line ${line} of the WGSL: ${wgsl.split("\n")[line - 1]?.trim()})` };
    const before = code.slice(0, offset).split("\n");
    return { text, line: before.length, column: before.at(-1)!.length + 1 };
  });
}
