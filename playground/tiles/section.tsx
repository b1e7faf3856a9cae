import { useEffect, useMemo, useState } from "preact/hooks";
import { scaledDotProductAttention } from "qkv";
import type { Devices } from "../device/devices.ts";
import { formatDifference } from "../numbers/format.ts";
import { asMatrix, asTensor, differences, largest } from "../numbers/matrix.ts";
import { Checkbox, Choice, Slider } from "../parts/controls.tsx";
import { useLatest } from "../parts/latest.tsx";
import { Section } from "../parts/section.tsx";
import { prefersReducedMotion } from "../parts/theme.ts";
import { type Course, depth, tileInputs } from "./inputs.ts";
import { runTiled, type TileShape } from "./online-softmax.ts";
import { plannedTile } from "./planned-tile.ts";
import { usePlayer } from "./play.ts";
import { TileNumbers } from "./tile-numbers.tsx";
import { TileStage } from "./tile-stage.tsx";

/** Where no plan tells: the tile of the smallest kernel of a GPU. */
const smallestTile: TileShape = { rows: 16, keys: 32 };

type TileChoice = "plan" | "8" | "16" | "32";

/** Milliseconds a frame, by name. */
const speeds = [
  [1400, "slow"],
  [600, "steady"],
  [160, "fast"],
] as const;

export function TilesSection({ devices }: { devices: Devices }) {
  const [length, setLength] = useState(96);
  const [course, setCourse] = useState<Course>("rising");
  const [causal, setCausal] = useState(true);
  const [left, setLeft] = useState(-1);
  const [choice, setChoice] = useState<TileChoice>("plan");
  const [interval, setInterval] = useState<number>(600);
  const [row, setRow] = useState(0);

  const inputs = useMemo(() => tileInputs(length, course, 7), [length, course]);
  const { result: planned } = useLatest(() => plannedTile(devices, inputs), [devices, length]);
  const size = Number(choice);
  const { rows, keys } =
    choice === "plan" ? (planned?.tile ?? smallestTile) : { rows: size, keys: size };
  const run = useMemo(() => {
    const { q, k, v } = inputs;
    return runTiled(q, k, v, {
      tile: { rows, keys },
      scale: 1 / Math.sqrt(depth),
      causal,
      left,
    });
  }, [inputs, rows, keys, causal, left]);
  const { result: difference } = useLatest(async () => {
    const { q, k, v } = inputs;
    const output = await scaledDotProductAttention(asTensor(q), asTensor(k), asTensor(v), {
      device: devices.main,
      causal,
      window: [left, -1],
    });
    return largest(differences(asMatrix(output), run.output).data);
  }, [devices, run]);

  const player = usePlayer(run.frames.length, interval, run);
  const frame = run.frames[player.frame]!;
  const rowsOfTile = frame.lastRow - frame.firstRow + 1;
  useEffect(() => setRow((before) => Math.min(before, rowsOfTile - 1)), [rowsOfTile]);
  const onGPU = devices.main.kind === "webgpu";
  const planLabel = planned
    ? `as planned, ${planned.tile.rows}×${planned.tile.keys}`
    : `${smallestTile.rows}×${smallestTile.keys}`;

  return (
    <Section
      id="tiles"
      number={2}
      title="See the tiles"
      lead={
        <>
          The fused kernel never holds a whole row of scores. It takes the keys a tile at a time,
          and keeps for each query only the largest score so far, <var>m</var>, the sum of the
          weights relative to it, <var>ℓ</var>, and their sum of values. When a tile brings a larger
          score, what was summed before is <em>rescaled</em>. That is the online softmax.
        </>
      }
    >
      <div class="controls">
        <Choice
          legend="Scores along the keys"
          name="course"
          values={
            [
              ["rising", "rising"],
              ["random", "random"],
              ["falling", "falling"],
            ] as const
          }
          value={course}
          onChange={setCourse}
        />
        <Choice
          legend="Tile, rows×keys"
          name="tile"
          values={
            [
              ["plan", planLabel],
              ["32", "32×32"],
              ["16", "16×16"],
              ["8", "8×8"],
            ] as const
          }
          value={choice}
          onChange={setChoice}
        />
        <Slider label="Length" value={length} min={32} max={128} step={16} onChange={setLength} />
        <Slider
          label="Window to the left"
          value={left < 0 ? 128 : left}
          min={0}
          max={128}
          step={8}
          text={left < 0 ? "open" : String(left)}
          onChange={(value) => setLeft(value >= 128 ? -1 : value)}
        />
        <Checkbox label="causal" checked={causal} onChange={setCausal} />
      </div>

      <TileStage inputs={inputs} run={run} at={player.frame} row={row} onRow={setRow} />

      <fieldset class="player">
        <legend class="visually-hidden">Animation</legend>
        <button
          type="button"
          aria-label="Previous step"
          onClick={() => player.go(player.frame - 1)}
          disabled={player.frame === 0}
        >
          ‹
        </button>
        <button type="button" class="play" onClick={player.toggle}>
          {player.playing ? "Pause" : "Play"}
        </button>
        <button
          type="button"
          aria-label="Next step"
          onClick={() => player.go(player.frame + 1)}
          disabled={player.frame === run.frames.length - 1}
        >
          ›
        </button>
        <input
          type="range"
          aria-label="Step of the animation"
          min={0}
          max={run.frames.length - 1}
          value={player.frame}
          onInput={({ currentTarget }) => player.go(currentTarget.valueAsNumber)}
        />
        <output class="frame-count">
          {player.frame + 1} / {run.frames.length}
        </output>
        <label class="speed">
          <span class="visually-hidden">Speed</span>
          <select
            value={interval}
            onChange={({ currentTarget }) => setInterval(Number(currentTarget.value))}
          >
            {speeds.map(([milliseconds, name]) => (
              <option key={name} value={milliseconds}>
                {name}
              </option>
            ))}
          </select>
        </label>
      </fieldset>

      <TileNumbers
        frame={frame}
        row={Math.min(row, rowsOfTile - 1)}
        smooth={!prefersReducedMotion()}
      />

      <p class="summary" data-testid="tiles-summary">
        {run.visitedTiles} tiles visited, {run.partialTiles} of them with masks; {run.skippedTiles}{" "}
        skipped and never loaded. The walk above and the{" "}
        {onGPU ? "GPU's fused kernel" : "CPU's kernel"} differ by{" "}
        <b>{difference === undefined ? "…" : formatDifference(difference)}</b> at most.
        {planned && onGPU && `The plan for this length is ${planned.variant}.`}
      </p>
    </Section>
  );
}
