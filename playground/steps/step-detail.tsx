import { formatBytes, formatDifference } from "../numbers/format.ts";
import { largest, largestMagnitude, type Matrix, matrixOf } from "../numbers/matrix.ts";
import { WGSL } from "../parts/code.tsx";
import { Fact } from "../parts/controls.tsx";
import { type Cell, type Frame, Heatmap } from "../parts/heatmap.tsx";
import { Legend } from "../parts/legend.tsx";
import type { Comparison } from "./compare.ts";
import { type Step, type TensorName, tensorNames, tensorOf } from "./step-list.ts";

/** One step: the device's tensor, what it is held against, their difference, and the kernel. */
export function StepDetail(props: {
  readonly number: number;
  readonly step: Step;
  readonly comparison: Comparison;
  readonly textShown: boolean;
  readonly onShowText: (shown: boolean) => void;
  /** What the device is called. */
  readonly device: string;
  readonly framesOf: (tensor: TensorName) => readonly Frame[];
  readonly pointAt: (tensor: TensorName) => (cell: Cell | undefined) => void;
}) {
  const { number, step, comparison, textShown, onShowText, device, framesOf, pointAt } = props;
  const { tensor, kernel } = step;
  const { name, kind } = tensorNames[tensor];
  const ours = tensorOf(tensor, comparison.inputs, comparison.tensors);
  const theirs = tensorOf(tensor, comparison.inputs, comparison.expected);
  const difference: Matrix =
    tensor === "q" || tensor === "k" || tensor === "v"
      ? matrixOf(ours.rows, ours.columns, () => 0)
      : comparison.differences[tensor];
  const limit =
    tensor === "weights" ? 1 : Math.max(largestMagnitude(ours), largestMagnitude(theirs));
  const most = largest(difference.data);
  const picture = (title: string, matrix: Matrix) => (
    <figure>
      <figcaption>
        <b>{title}</b>
      </figcaption>
      <Heatmap
        name={name}
        label={`${name} on the ${title}`}
        matrix={matrix}
        kind={kind}
        limit={limit}
        frames={framesOf(tensor)}
        onPoint={pointAt(tensor)}
      />
      <Legend kind={kind} limit={limit} />
    </figure>
  );
  return (
    <section class="panel" aria-label={`Step ${number}`}>
      <header>
        <h3>
          <span class="step-number">{number}</span> {step.title}
        </h3>
        <p>{step.text}</p>
      </header>
      <div class="triple">
        {picture(device, ours)}
        {picture(comparison.expectedName, theirs)}
        <figure>
          <figcaption>
            <b>|difference|</b>
          </figcaption>
          <Heatmap
            name="|Δ|"
            label={`Difference of ${name}`}
            matrix={difference}
            kind="difference"
            limit={most > 0 ? most : 1}
            describe={(index) => formatDifference(difference.data[index]!)}
          />
          {most > 0 ? (
            <Legend kind="difference" limit={most} />
          ) : (
            <span class="legend muted">the same to the last bit</span>
          )}
        </figure>
      </div>
      {kernel ? (
        <>
          <dl class="facts">
            <Fact name="kernel">
              <code>{kernel.name}</code>
            </Fact>
            {kernel.launch.variant && <Fact name="variant">{kernel.launch.variant}</Fact>}
            <Fact name="grid">{kernel.launch.workgroups.join(" × ")} workgroups</Fact>
            {kernel.workgroup && <Fact name="workgroup">{kernel.workgroup.join(" × ")} lanes</Fact>}
            {kernel.launch.workgroupBytes !== undefined && (
              <Fact name="workgroup memory">{formatBytes(kernel.launch.workgroupBytes)}</Fact>
            )}
            <Fact name="uniforms">
              {Object.entries(kernel.launch.uniforms ?? {})
                .map(([uniform, value]) => `${uniform} ${value}`)
                .join(", ")}
            </Fact>
          </dl>
          <button type="button" aria-expanded={textShown} onClick={() => onShowText(!textShown)}>
            {textShown ? "Hide the WGSL" : "Show the WGSL"}
          </button>
          {textShown && <WGSL text={kernel.launch.wgsl} label={`WGSL of ${kernel.name}`} />}
        </>
      ) : (
        <p class="muted">A view of the same memory as {step.shape}: no kernel, no copy, no time.</p>
      )}
    </section>
  );
}
