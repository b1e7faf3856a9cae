import { useCallback, useMemo, useState } from "preact/hooks";
import type { Devices } from "../device/devices.ts";
import { formatDifference } from "../numbers/format.ts";
import { largest, largestMagnitude, withElement } from "../numbers/matrix.ts";
import { random } from "../numbers/random.ts";
import { Choice, NumberField } from "../parts/controls.tsx";
import { type Cell, Heatmap } from "../parts/heatmap.tsx";
import { Busy, useLatest } from "../parts/latest.tsx";
import { Legend } from "../parts/legend.tsx";
import { Section } from "../parts/section.tsx";
import { compare } from "./compare.ts";
import { FusedPanel } from "./fused-panel.tsx";
import { type Inputs, presets, type Sizes } from "./presets.ts";
import { StepDetail } from "./step-detail.tsx";
import { sourcesOf, stepList, type TensorName, tensorNames } from "./step-list.ts";
import { StepStrip } from "./step-strip.tsx";

/** The cell that is pointed at. */
export interface Pointed {
  readonly tensor: TensorName;
  readonly cell: Cell;
}

export const largestSize = 64;

interface Setting {
  readonly preset: string;
  readonly sizes: Sizes;
  readonly seed: number;
}

const presetOf = (name: string) => presets.find((preset) => preset.name === name)!;

function makeInputs({ preset, sizes, seed }: Setting): Inputs {
  return presetOf(preset).make(sizes, random(seed));
}

const initial: Setting = { preset: "random", sizes: presets[0]!.sizes, seed: 42 };

export function StepsSection({ devices }: { devices: Devices }) {
  const [setting, setSetting] = useState(initial);
  const [inputs, setInputs] = useState(() => makeInputs(initial));
  const [selected, setSelected] = useState(4);
  const [textShown, setTextShown] = useState(false);
  const [pointed, setPointed] = useState<Pointed>();
  const { result, error, busy } = useLatest(() => compare(devices, inputs), [devices, inputs]);

  const change = (changed: Partial<Setting>) => {
    const next = { ...setting, ...changed };
    setSetting(next);
    setInputs(makeInputs(next));
    setPointed(undefined);
  };
  const resize = (changed: Partial<Sizes>) => change({ sizes: { ...setting.sizes, ...changed } });
  const pointAt = useCallback(
    (tensor: TensorName) => (cell: Cell | undefined) => setPointed(cell && { tensor, cell }),
    [],
  );
  const steps = useMemo(
    () => result && stepList(result.sizes, devices.capabilities),
    [result, devices],
  );
  const sources = pointed && result ? sourcesOf(pointed.tensor, pointed.cell, result.sizes) : {};
  const framesOf = (tensor: TensorName) => (sources[tensor] ? [sources[tensor]] : []);

  const sizeFields = {
    queries: "Queries",
    keys: "Keys",
    depth: "Depth",
    valueDepth: "Value depth",
  } as const;
  return (
    <Section
      id="steps"
      number={1}
      title="Step through the op"
      lead={
        <>
          Attention is <span class="formula">softmax(Q·Kᵀ)·V</span>: compare each query with every
          key, turn the scores into weights, and mix the values by them. Below it runs as seven
          steps out of three small kernels. Every picture is read back from the buffer that the
          kernel wrote. Change a number and all of it runs again.
        </>
      }
    >
      <div class="controls">
        <Choice
          legend="Start from"
          name="preset"
          values={presets.map(({ name, label }) => [name, label] as const)}
          value={setting.preset}
          onChange={(preset) => change({ preset, sizes: presetOf(preset).sizes })}
        />
        <fieldset class="sizes">
          <legend>Sizes, to {largestSize}</legend>
          {(Object.keys(sizeFields) as (keyof Sizes)[]).map((name) => (
            <NumberField
              key={name}
              label={sizeFields[name]}
              value={setting.sizes[name]}
              min={1}
              max={largestSize}
              onChange={(value) => resize({ [name]: value })}
            />
          ))}
        </fieldset>
        <button type="button" onClick={() => change({ seed: setting.seed + 1 })}>
          New numbers
        </button>
      </div>
      <p class="note">
        {presetOf(setting.preset).note} <Busy busy={busy} />
      </p>

      <div class="inputs">
        {(["q", "k", "v"] as const).map((tensor) => (
          <figure key={tensor}>
            <figcaption>
              <b>{tensorNames[tensor].name}</b>
              <span class="muted">
                {tensor === "q" ? "queries" : tensor === "k" ? "keys" : "values"} [
                {inputs[tensor].rows}, {inputs[tensor].columns}]
              </span>
            </figcaption>
            <Heatmap
              name={tensorNames[tensor].name}
              label={`${tensorNames[tensor].name}, editable`}
              matrix={inputs[tensor]}
              frames={framesOf(tensor)}
              onPoint={pointAt(tensor)}
              onEdit={(index, value) =>
                setInputs({ ...inputs, [tensor]: withElement(inputs[tensor], index, value) })
              }
            />
            <Legend kind="signed" limit={largestMagnitude(inputs[tensor])} />
          </figure>
        ))}
      </div>

      {error !== undefined && <p class="error">{error}</p>}
      {result && steps ? (
        <>
          <StepStrip
            steps={steps}
            comparison={result}
            selected={selected}
            onSelect={(step, showText) => {
              setSelected(step);
              if (showText) setTextShown(true);
            }}
            framesOf={framesOf}
            pointAt={pointAt}
            onGPU={devices.main.kind === "webgpu"}
          />
          <StepDetail
            number={selected + 1}
            step={steps[selected]!}
            comparison={result}
            textShown={textShown}
            onShowText={setTextShown}
            device={devices.main.kind === "webgpu" ? "GPU" : "CPU"}
            framesOf={framesOf}
            pointAt={pointAt}
          />
          <p class="summary" data-testid="steps-summary">
            Output of the seven steps against the {result.expectedName}:{" "}
            <b>|Δ| ≤ {formatDifference(largest(result.differences.output.data))}</b>
          </p>
          <FusedPanel devices={devices} inputs={inputs} />
        </>
      ) : (
        <p class="muted">The kernels are being compiled.</p>
      )}
    </Section>
  );
}
