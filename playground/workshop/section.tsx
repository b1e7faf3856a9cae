import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { Section } from "../parts/section.tsx";
import { onceNear } from "../parts/when-near.tsx";
import { loadDraft, saveDraft } from "./drafts.ts";
import type { Editor, PlacedProblem } from "./editor.ts";
import { exercises } from "./exercises/index.ts";
import type { RunReply } from "./messages.ts";
import { RunResult } from "./run-result.tsx";
import { Runner } from "./runner.ts";

/** How a run went. */
export type Outcome =
  | Extract<RunReply, { kind: "checked" }>
  | { readonly kind: "problems"; readonly problems: readonly PlacedProblem[] };

export function WorkshopSection({ hasGPU }: { hasGPU: boolean }) {
  const [number, setNumber] = useState(0);
  const [solved, setSolved] = useState<ReadonlySet<number>>(new Set());
  const [running, setRunning] = useState<string>();
  const [outcome, setOutcome] = useState<Outcome>();
  const [hint, setHint] = useState(false);
  const [showsSolution, setShowsSolution] = useState(false);
  const editor = useRef<Editor>(undefined);
  const runner = useMemo(() => new Runner(), []);
  const exercise = exercises[number]!;
  const code = loadDraft(number) ?? exercise.starter;

  const choose = (chosen: number) => {
    runner.stop();
    setNumber(chosen);
    setOutcome(undefined);
    setHint(false);
    setShowsSolution(false);
    editor.current?.setCode(loadDraft(chosen) ?? exercises[chosen]!.starter);
  };
  const showSolution = (shown: boolean) => {
    setShowsSolution(shown);
    setOutcome(undefined);
    editor.current?.setCode(shown ? exercise.solution : (loadDraft(number) ?? exercise.starter));
  };
  const startOver = () => {
    saveDraft(number, undefined);
    showSolution(false);
  };
  const run = async () => {
    const { current } = editor;
    if (!current) return;
    setRunning("Starting…");
    setOutcome(undefined);
    try {
      const reply = await runner.run({ exercise: number, code: current.code }, setRunning);
      if (reply.kind === "problem")
        setOutcome({ kind: "problems", problems: current.show([reply.problem]) });
      else if (reply.kind === "shader") {
        const { problems, message } = reply;
        const placed = current.show(problems);
        setOutcome({
          kind: "problems",
          problems: placed.length > 0 ? placed : [{ text: message }],
        });
      } else if (reply.kind === "checked") {
        current.show([]);
        setOutcome(reply);
        if (!showsSolution && reply.checks.every(({ failure }) => failure === undefined))
          setSolved((before) => new Set([...before, number]));
      }
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      setOutcome({ kind: "problems", problems: [{ text }] });
    }
    setRunning(undefined);
  };
  return (
    <Section
      id="workshop"
      number={4}
      title="Write your own op"
      lead={
        <>
          Five exercises, from one line of WGSL to a fused attention. An op is TypeScript; a kernel
          is WGSL in it. What you write compiles and runs here, is held against a reference, and is
          timed.
        </>
      }
    >
      {!hasGPU && (
        <p class="notice">
          There is no WebGPU here, and WGSL needs it. The first exercise also has a <code>cpu</code>{" "}
          function, which runs; the rest can be read.
        </p>
      )}
      <ol class="exercises">
        {exercises.map(({ title }, i) => (
          <li key={title}>
            <button type="button" aria-pressed={i === number} onClick={() => choose(i)}>
              <span class="step-number">{solved.has(i) ? "✓" : i + 1}</span> {title}
              {solved.has(i) && <span class="visually-hidden">, solved</span>}
            </button>
          </li>
        ))}
      </ol>
      <p class="goal">
        <b>Goal.</b> {exercise.goal}
      </p>
      {hint && (
        <p class="goal hint">
          <b>Hint.</b> {exercise.hint}
        </p>
      )}
      <CodeBox
        code={code}
        onReady={(ready) => {
          editor.current = ready;
        }}
        onChange={(text) => {
          if (!showsSolution) saveDraft(number, text === exercise.starter ? undefined : text);
        }}
        onRun={run}
      />
      <div class="workshop-buttons">
        {running === undefined ? (
          <button type="button" class="primary" onClick={run}>
            Run and check
          </button>
        ) : (
          <button type="button" class="primary" onClick={() => runner.stop()}>
            Stop
          </button>
        )}
        <button type="button" aria-pressed={hint} onClick={() => setHint(!hint)}>
          Hint
        </button>
        <button type="button" onClick={() => showSolution(!showsSolution)}>
          {showsSolution ? "Back to my code" : "Show the solution"}
        </button>
        <button type="button" onClick={startOver}>
          Start over
        </button>
        <span class="muted" role="status">
          {running ?? (outcome ? "" : "Ctrl or ⌘ with Enter runs it, too.")}
        </span>
      </div>
      {outcome && <RunResult outcome={outcome} onGoTo={(line) => editor.current?.goTo(line)} />}
    </Section>
  );
}

/** The code: plain until it is nearly in sight, then in an editor, which is loaded for that. */
function CodeBox(props: {
  readonly code: string;
  readonly onReady: (editor: Editor) => void;
  readonly onChange: (code: string) => void;
  readonly onRun: () => void;
}) {
  const { code } = props;
  const box = useRef<HTMLDivElement>(null);
  const latest = useRef(props);
  latest.current = props;
  const [loaded, setLoaded] = useState(false);
  useEffect(() => {
    let editor: Editor | undefined;
    let gone = false;
    const load = async () => {
      const { createEditor } = await import("./editor.ts");
      if (gone) return;
      setLoaded(true);
      editor = createEditor({
        parent: box.current!,
        code: latest.current.code,
        onChange: (text) => latest.current.onChange(text),
        onRun: () => latest.current.onRun(),
      });
      latest.current.onReady(editor);
    };
    const stopWaiting = onceNear(box.current!, () => void load());
    return () => {
      gone = true;
      stopWaiting();
      editor?.destroy();
    };
  }, []);
  return (
    <div ref={box} class="editor">
      {!loaded && <pre class="waiting">{code}</pre>}
    </div>
  );
}
