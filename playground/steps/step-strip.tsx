import { formatDifference } from "../numbers/format.ts";
import { largest } from "../numbers/matrix.ts";
import { type Cell, type Frame, Heatmap } from "../parts/heatmap.tsx";
import type { Comparison } from "./compare.ts";
import { type Step, type TensorName, tensorNames, tensorOf } from "./step-list.ts";

/** The steps side by side, each with the tensor that it left. */
export function StepStrip(props: {
  readonly steps: readonly Step[];
  readonly comparison: Comparison;
  readonly selected: number;
  /** Chooses a step, and may ask for its WGSL. */
  readonly onSelect: (step: number, showText: boolean) => void;
  readonly framesOf: (tensor: TensorName) => readonly Frame[];
  readonly pointAt: (tensor: TensorName) => (cell: Cell | undefined) => void;
  readonly onGPU: boolean;
}) {
  const { steps, comparison, selected, onSelect, framesOf, pointAt, onGPU } = props;
  return (
    <ol class="strip" aria-label="The seven steps">
      {steps.map((step, i) => (
        <li key={step.title} class={`step ${step.kernel ? "" : "view"}`}>
          <button
            type="button"
            class="step-title"
            aria-pressed={i === selected}
            onClick={() => onSelect(i, false)}
          >
            <span class="step-number">{i + 1}</span> {step.title}
          </button>
          <Heatmap
            name={tensorNames[step.tensor].name}
            label={`Step ${i + 1}: ${tensorNames[step.tensor].name}`}
            matrix={tensorOf(step.tensor, comparison.inputs, comparison.tensors)}
            kind={tensorNames[step.tensor].kind}
            limit={step.tensor === "weights" ? 1 : undefined}
            frames={framesOf(step.tensor)}
            onPoint={pointAt(step.tensor)}
          />
          <StepFacts
            step={step}
            comparison={comparison}
            onGPU={onGPU}
            onShowText={() => onSelect(i, true)}
          />
        </li>
      ))}
    </ol>
  );
}

function StepFacts(props: {
  readonly step: Step;
  readonly comparison: Comparison;
  readonly onGPU: boolean;
  readonly onShowText: () => void;
}) {
  const { step, comparison, onGPU, onShowText } = props;
  const { kernel, tensor, shape } = step;
  if (!kernel || tensor === "q" || tensor === "k" || tensor === "v")
    return (
      <p class="step-facts">
        <span>view</span>
        <span>{shape}</span>
        <span class="muted">nothing runs</span>
      </p>
    );
  return (
    <p class="step-facts">
      <button type="button" class="link" title="Show its WGSL" onClick={onShowText}>
        <code>{kernel.name}</code>
      </button>
      <span>
        grid {kernel.launch.workgroups.join("×")}
        {onGPU ? "" : " *"}
      </span>
      {kernel.workgroup && <span>{kernel.workgroup.join("×")} lanes</span>}
      <span>|Δ| ≤ {formatDifference(largest(comparison.differences[tensor].data))}</span>
    </p>
  );
}
