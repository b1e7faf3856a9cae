import { formatDifference, formatRate, formatSeconds } from "../numbers/format.ts";
import { Plain } from "../parts/code.tsx";
import type { Timing } from "./messages.ts";
import type { Outcome } from "./section.tsx";

/** Checks, time and plan of a run; or what is wrong with the code. */
export function RunResult(props: {
  readonly outcome: Outcome;
  readonly onGoTo: (line: number) => void;
}) {
  const { outcome, onGoTo } = props;
  if (outcome.kind === "problems")
    return (
      <ul class="problems" aria-label="Problems">
        {outcome.problems.map(({ line, text }) => (
          <li key={`${line} ${text}`}>
            {line !== undefined && (
              <button type="button" class="link" onClick={() => onGoTo(line)}>
                line {line}
              </button>
            )}
            <span>{text}</span>
          </li>
        ))}
      </ul>
    );
  const { checks, timing, plan, device } = outcome;
  const passed = checks.filter(({ failure }) => failure === undefined).length;
  return (
    <div class="run-result">
      <ul class="checks" aria-label="Checks">
        {checks.map(({ title, failure, difference }) => (
          <li key={title} class={failure === undefined ? "passed" : "failed"}>
            <span aria-hidden="true">{failure === undefined ? "✓" : "✗"}</span>
            <span>
              <span class="visually-hidden">{failure === undefined ? "passed: " : "failed: "}</span>
              {title}
              {failure === undefined && difference !== undefined && (
                <span class="muted"> |Δ| ≤ {formatDifference(difference)}</span>
              )}
              {failure !== undefined && <span class="failure">{failure}</span>}
            </span>
          </li>
        ))}
      </ul>
      <p class="summary" data-testid="workshop-summary">
        <b>
          {passed} of {checks.length} checks passed
        </b>{" "}
        on {device}.{timing && <TimingText timing={timing} />}
      </p>
      <details>
        <summary>The plan of the first check</summary>
        <Plain text={plan} label="Plan" />
      </details>
    </div>
  );
}

function TimingText({ timing: { title, seconds, flops, bytes } }: { timing: Timing }) {
  return (
    <>
      {" "}
      {title}: <b>{formatSeconds(seconds)}</b>,{" "}
      {flops === undefined
        ? formatRate(bytes / seconds, "B/s")
        : formatRate(flops / seconds, "FLOP/s")}
      .
    </>
  );
}
