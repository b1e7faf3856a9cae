import { useState } from "preact/hooks";
import type { Devices } from "../device/devices.ts";
import { workgroupSize } from "../device/wgsl-constants.ts";
import { formatBytes, formatDifference } from "../numbers/format.ts";
import { largestMagnitude } from "../numbers/matrix.ts";
import { Plain, WGSL } from "../parts/code.tsx";
import { Heatmap } from "../parts/heatmap.tsx";
import { useLatest } from "../parts/latest.tsx";
import { Legend } from "../parts/legend.tsx";
import { compareFused } from "./compare.ts";
import type { Inputs } from "./presets.ts";
import type { GraphRun } from "./run-steps.ts";

/** The fused kernel beside the seven steps, each with its plan. */
export function FusedPanel({ devices, inputs }: { devices: Devices; inputs: Inputs }) {
  const { result, error } = useLatest(() => compareFused(devices, inputs), [devices, inputs]);
  const onGPU = devices.main.kind === "webgpu";
  const limit = result ? largestMagnitude(result.steps.output) : 0;
  return (
    <section class="panel" aria-label="Fused">
      <header>
        <h3>The same, fused</h3>
        <p>
          A graph of <code>matmul → softmax → matmul</code> is recognized and becomes one kernel. It
          never writes the scores to memory: see the next section for how.
        </p>
      </header>
      {error !== undefined && <p class="error">{error}</p>}
      {result ? (
        <>
          <div class="pair">
            <Run title="Seven steps" run={result.steps} limit={limit} onGPU={onGPU} />
            <Run title="Fused" run={result.fused} limit={limit} onGPU={onGPU} />
          </div>
          <p class="summary" data-testid="fused-difference">
            The two outputs differ by <b>{formatDifference(result.difference)}</b> at most.
          </p>
        </>
      ) : (
        <p class="muted">Compiling…</p>
      )}
    </section>
  );
}

function Run(props: {
  readonly title: string;
  readonly run: GraphRun;
  readonly limit: number;
  readonly onGPU: boolean;
}) {
  const { title, run, limit, onGPU } = props;
  const [shown, setShown] = useState<"plan" | number>();
  const kernels = run.steps.filter(({ kernel }) => kernel !== "view");
  const toggle = (what: "plan" | number) => setShown(shown === what ? undefined : what);
  const text = typeof shown === "number" ? run.steps[shown]?.wgsl : undefined;
  return (
    <div class="run">
      <h4>{title}</h4>
      <div class="run-row">
        <figure>
          <Heatmap name="output" label={`Output, ${title}`} matrix={run.output} limit={limit} />
          <Legend kind="signed" limit={limit} />
        </figure>
        <div>
          <p>
            <b>{kernels.length}</b> {kernels.length === 1 ? "dispatch" : "dispatches"},{" "}
            <b>{formatBytes(run.temporaryBytes)}</b> of temporaries
          </p>
          <ul class="dispatches">
            {run.steps.map((step, i) => {
              if (step.kernel === "view") return null;
              const { wgsl } = step;
              const size = wgsl === undefined ? undefined : workgroupSize(wgsl);
              return (
                <li key={i}>
                  <code>{step.kernel}</code> {step.variant}
                  {step.workgroups && `, grid ${step.workgroups.join("×")}`}
                  {size && `, ${size[0]} lanes`}
                  {title === "Fused" && wgsl !== undefined && (
                    <button
                      type="button"
                      class="link"
                      aria-expanded={shown === i}
                      onClick={() => toggle(i)}
                    >
                      WGSL
                    </button>
                  )}
                </li>
              );
            })}
          </ul>
          {!onGPU && <p class="muted">On the CPU, in WebAssembly.</p>}
          <button type="button" aria-expanded={shown === "plan"} onClick={() => toggle("plan")}>
            {shown === "plan" ? "Hide the plan" : "Show the plan"}
          </button>
        </div>
      </div>
      {shown === "plan" && <Plain text={run.explained} label={`Plan, ${title}`} />}
      {text !== undefined && <WGSL text={text} label={`WGSL, ${title}`} />}
    </div>
  );
}
