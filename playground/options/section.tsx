import { useCallback, useMemo, useRef, useState } from "preact/hooks";
import type { Devices } from "../device/devices.ts";
import { formatDifference, formatNumber } from "../numbers/format.ts";
import { Plain } from "../parts/code.tsx";
import { Checkbox, Choice, NumberField, Slider } from "../parts/controls.tsx";
import { HatchSample } from "../parts/hatch.tsx";
import { Heatmap } from "../parts/heatmap.tsx";
import { Busy, useLatest } from "../parts/latest.tsx";
import { Legend } from "../parts/legend.tsx";
import { Section } from "../parts/section.tsx";
import { type Call, callText } from "./call.ts";
import { forbiddenBy, type MaskPreset, makeMask, type Rule, rule, ruleNames } from "./rules.ts";
import { runCall } from "./run.ts";

const openSide = 20;

const initial: Call = {
  queryHeads: 4,
  kvHeads: 2,
  queries: 15,
  keys: 15,
  rules: { causal: true, left: -1, right: -1, mask: makeMask("none", 15, 15) },
  softcap: 0,
};

export function OptionsSection({ devices }: { devices: Devices }) {
  const [call, setCall] = useState(initial);
  const [preset, setPreset] = useState<MaskPreset | "drawn">("none");
  const { result, error, busy } = useLatest(() => runCall(devices.main, call), [devices, call]);
  const brush = useRef(0);

  const { queries, keys, rules, queryHeads, kvHeads, softcap } = call;
  const change = (changed: Partial<Call>) => setCall({ ...call, ...changed });
  const changeRules = (changed: Partial<Call["rules"]>) =>
    change({ rules: { ...rules, ...changed } });
  const usePreset = (name: MaskPreset) => {
    setPreset(name);
    changeRules({ mask: makeMask(name, queries, keys) });
  };
  const resize = (sizes: { queries?: number; keys?: number }) => {
    const next = { queries, keys, ...sizes };
    const name = preset === "drawn" ? "none" : preset;
    setPreset(name);
    change({ ...next, rules: { ...rules, mask: makeMask(name, next.queries, next.keys) } });
  };
  const paint = (index: number, first: boolean) => {
    if (first) brush.current = rules.mask[index] ? 0 : 1;
    if (rules.mask[index] === brush.current) return;
    const mask = rules.mask.slice();
    mask[index] = brush.current;
    setPreset("drawn");
    changeRules({ mask });
  };
  // A cell of the result that is shown, which may be of a call before this one.
  const shown = result?.call;
  const hatchOf = useCallback(
    (index: number): Rule =>
      shown
        ? forbiddenBy(shown.rules, shown.keys, Math.floor(index / shown.keys), index % shown.keys)
        : rule.none,
    [shown],
  );
  const counts = useMemo(() => {
    const counted = [0, 0, 0, 0];
    for (let index = 0; shown && index < shown.queries * shown.keys; index++)
      counted[hatchOf(index)]!++;
    return counted;
  }, [shown, hatchOf]);
  const side = (name: "left" | "right", label: string) => (
    <Slider
      label={label}
      value={rules[name] < 0 ? openSide : rules[name]}
      min={0}
      max={openSide}
      text={rules[name] < 0 ? "open" : String(rules[name])}
      onChange={(value) => changeRules({ [name]: value === openSide ? -1 : value })}
    />
  );
  return (
    <Section
      id="options"
      number={3}
      title="Turn the options"
      lead={
        <>
          Real models add rules: a decoder may not look ahead, a window keeps what is near, a mask
          keeps documents apart. Every rule removes keys before the softmax, so the weights that
          stay add up to 1 again. <strong>Draw on a matrix</strong> to forbid keys by hand.
        </>
      }
    >
      <div class="controls">
        <Choice
          legend="Query heads"
          name="query-heads"
          values={[1, 2, 4].map((count) => [count, String(count)] as const)}
          value={queryHeads}
          onChange={(count) => change({ queryHeads: count, kvHeads: Math.min(kvHeads, count) })}
        />
        <Choice
          legend="Key/value heads"
          name="kv-heads"
          values={[1, 2, 4]
            .filter((count) => count <= queryHeads)
            .map((count) => [count, String(count)] as const)}
          value={kvHeads}
          onChange={(count) => change({ kvHeads: count })}
        />
        <fieldset class="sizes">
          <legend>Sizes, to 32</legend>
          <NumberField
            label="Queries"
            value={queries}
            min={1}
            max={32}
            onChange={(value) => resize({ queries: value })}
          />
          <NumberField
            label="Keys"
            value={keys}
            min={1}
            max={32}
            onChange={(value) => resize({ keys: value })}
          />
        </fieldset>
        <Checkbox
          label="causal"
          checked={rules.causal}
          onChange={(causal) => changeRules({ causal })}
        />
        {side("left", "Window left")}
        {side("right", "Window right")}
        <Slider
          label="Softcap"
          value={softcap}
          min={0}
          max={8}
          step={0.5}
          text={softcap === 0 ? "off" : String(softcap)}
          onChange={(value) => change({ softcap: value })}
        />
        <Choice
          legend="Mask"
          name="mask"
          values={(
            [
              ["none", "none"],
              ["documents", "documents"],
              ["prefix", "prefix"],
              ["strided", "strided"],
              ["drawn", "drawn"],
            ] as const
          ).filter(([name]) => name !== "drawn" || preset === "drawn")}
          value={preset}
          onChange={(name) => name !== "drawn" && usePreset(name)}
        />
      </div>
      {error !== undefined && <p class="error">{error}</p>}
      {result && shown && (
        <>
          <div class={`heads heads-${shown.queryHeads}`}>
            {result.weights.map((weights, head) => (
              <figure key={head}>
                <figcaption>
                  <b>head {head}</b>
                  <span class="muted">
                    reads key/value head {Math.floor(head / (shown.queryHeads / shown.kvHeads))}
                  </span>
                </figcaption>
                <Heatmap
                  name="weights"
                  label={`Weights of head ${head}`}
                  matrix={weights}
                  kind="unsigned"
                  limit={1}
                  hatchOf={hatchOf}
                  describe={(index) => {
                    const reason = hatchOf(index);
                    return reason === rule.none
                      ? formatNumber(weights.data[index])
                      : `0, removed by ${reason === rule.causal ? "causal" : `the ${ruleNames[reason]}`}`;
                  }}
                  onPaint={paint}
                />
              </figure>
            ))}
          </div>
          <ul class="stage-legend">
            <li>
              weight <Legend kind="unsigned" limit={1} />
            </li>
            {([rule.causal, rule.window, rule.mask] as const).map((number) => (
              <li key={number}>
                <HatchSample number={number} /> {ruleNames[number]}: {counts[number]}
              </li>
            ))}
            <li>
              <Busy busy={busy} />
            </li>
          </ul>
          <Plain text={callText(shown)} label="The call" />
          <p class="summary" data-testid="options-summary">
            {counts[rule.none]} of {shown.queries * shown.keys} pairs are left. Weights and output
            differ from the definition in float64 by <b>{formatDifference(result.difference)}</b> at
            most.
          </p>
        </>
      )}
    </Section>
  );
}
