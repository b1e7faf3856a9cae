import { useCallback, useMemo } from "preact/hooks";
import { colorScale } from "../numbers/color-scale.ts";
import { formatNumber } from "../numbers/format.ts";
import { largestMagnitude, type Matrix, transposed } from "../numbers/matrix.ts";
import { HatchSample } from "../parts/hatch.tsx";
import { type Cell, type Frame, Heatmap } from "../parts/heatmap.tsx";
import { Legend } from "../parts/legend.tsx";
import { useTheme } from "../parts/theme.ts";
import type { Inputs } from "../steps/presets.ts";
import type { TiledRun, TileFrame } from "./online-softmax.ts";

/** What the frames up to `at` left: state by query row, and how far each row has come. */
interface Progress {
  /** The rows' largest scores; NaN before they begin. */
  readonly maximum: Float32Array;
  readonly sum: Float32Array;
  /** The output so far, divided by the sum so far. */
  readonly output: Matrix;
  /** Keys whose weights are summed: 1; those of the tile whose scores are there: 2; skipped: 3. */
  readonly state: Uint8Array;
  readonly finished: Uint8Array;
}

function progressAt({ frames, scores, output }: TiledRun, at: number): Progress {
  const { rows, columns } = scores;
  const maximum = new Float32Array(rows).fill(Number.NaN);
  const sum = new Float32Array(rows);
  const outputs = new Float32Array(output.data.length).fill(Number.NaN);
  const state = new Uint8Array(rows * columns);
  const finished = new Uint8Array(rows);
  for (const [i, frame] of frames.slice(0, at + 1).entries()) {
    const { phase, firstRow, lastRow, firstKey, endKey, after } = frame;
    const mark = { skip: 3, scores: 2, rescale: 2, accumulate: 1, finish: 0 }[phase];
    for (let row = firstRow; row <= lastRow; row++) {
      if (mark > 0) state.fill(mark, row * columns + firstKey, row * columns + endKey);
      if (phase === "finish") finished[row] = 1;
    }
    // States replace each other: only the last of a tile of rows shows.
    if (i < at && frames[i + 1]!.firstRow === firstRow) continue;
    maximum.set(after.maximum, firstRow);
    sum.set(after.sum, firstRow);
    const divided = after.output.map((value, element) => {
      const total = after.sum[Math.floor(element / output.columns)]!;
      return phase === "finish" || total === 0 ? value : value / total;
    });
    outputs.set(divided, firstRow * output.columns);
  }
  return { maximum, sum, output: { ...output, data: outputs }, state, finished };
}

/** The matrices with what is loaded, computed, skipped and summed at a frame. */
export function TileStage(props: {
  readonly inputs: Inputs;
  readonly run: TiledRun;
  readonly at: number;
  /** The row whose numbers are shown, counted from the tile's first. */
  readonly row: number;
  readonly onRow: (row: number) => void;
}) {
  const { inputs, run, at, row, onRow } = props;
  const { q, k, v } = inputs;
  const { scores } = run;
  const frame = run.frames[at]!;
  const theme = useTheme();
  const keyTransposed = useMemo(() => transposed(k), [k]);
  const valueTransposed = useMemo(() => transposed(v), [v]);
  const scoreLimit = useMemo(() => largestMagnitude(scores), [scores]);
  const progress = useMemo(() => progressAt(run, at), [run, at]);
  const outputLimit = useMemo(() => largestMagnitude(run.output), [run]);

  // Relative to the row's largest score so far: what was summed fades when the maximum rises.
  const weightOf = useCallback(
    (index: number) =>
      Math.exp(scores.data[index]! - progress.maximum[Math.floor(index / scores.columns)]!),
    [scores, progress],
  );
  const colorOf = useCallback(
    (index: number) => {
      const state = progress.state[index]!;
      if (state === 1) return colorScale("unsigned", theme).color(weightOf(index), 1);
      if (state === 2) return colorScale("signed", theme).color(scores.data[index]!, scoreLimit);
      return "transparent";
    },
    [progress, scores, scoreLimit, theme, weightOf],
  );
  const hatchOf = useCallback(
    (index: number) => {
      const state = progress.state[index]!;
      const forbidden = scores.data[index] === Number.NEGATIVE_INFINITY;
      return state === 3 ? 1 : state > 0 && forbidden ? 3 : 0;
    },
    [progress, scores],
  );
  // Rows that have not begun have no output yet.
  const outputColorOf = useCallback(
    (index: number) => (Number.isNaN(progress.output.data[index]) ? "transparent" : undefined),
    [progress],
  );
  const describe = (index: number) => {
    const score = formatNumber(scores.data[index]);
    const state = progress.state[index]!;
    if (state === 0) return "not reached yet";
    if (state === 3) return "skipped: no row of the tile sees it";
    if (score === "−∞") return "forbidden";
    if (state === 2) return `${score}, a score`;
    const row = Math.floor(index / scores.columns);
    return progress.finished[row]
      ? `${formatNumber(weightOf(index) / progress.sum[row]!)}, the weight of score ${score}`
      : `${formatNumber(weightOf(index))}, exp(${score} − m)`;
  };

  const active = frame.phase !== "finish" && frame.phase !== "skip";
  const rows = frame.lastRow - frame.firstRow + 1;
  const keys = frame.endKey - frame.firstKey;
  const rowFrame = (columns: number): Frame[] => [
    { row: frame.firstRow, column: 0, rows, columns, kind: "tile" },
  ];
  const keyFrame = (of: "k" | "v"): Frame[] => {
    const loaded = active && (of === "k" || frame.phase === "accumulate");
    const place = { row: 0, column: frame.firstKey, rows: k.columns, columns: keys };
    return loaded ? [{ ...place, kind: "tile" }] : [];
  };
  const scoreFrames: Frame[] = [
    { row: frame.firstRow, column: 0, rows, columns: k.rows, kind: "band" },
    {
      row: frame.firstRow + Math.min(row, rows - 1),
      column: 0,
      rows: 1,
      columns: k.rows,
      kind: "row",
    },
  ];
  if (keys > 0 && frame.phase !== "finish")
    scoreFrames.push({
      row: frame.firstRow,
      column: frame.firstKey,
      rows,
      columns: keys,
      kind: frame.phase === "skip" ? "skip" : "tile",
    });
  const choose = (cell: Cell | undefined) => {
    if (cell && cell.row >= frame.firstRow && cell.row <= frame.lastRow)
      onRow(cell.row - frame.firstRow);
  };
  return (
    <div class="stage" data-phase={frame.phase}>
      <figure class="stage-k">
        <figcaption>
          <b>Kᵀ</b> {active && <span class="muted">tile {tileText(frame)} loaded</span>}
        </figcaption>
        <Heatmap
          name="Kᵀ"
          label="Keys"
          matrix={keyTransposed}
          frames={keyFrame("k")}
          readout={false}
        />
      </figure>
      <figure class="stage-q">
        <figcaption>
          <b>Q</b>
        </figcaption>
        <Heatmap name="Q" label="Queries" matrix={q} frames={rowFrame(q.columns)} readout={false} />
      </figure>
      <figure class="stage-s">
        <Heatmap
          name="S"
          label="Scores and weights"
          matrix={scores}
          colorOf={colorOf}
          hatchOf={hatchOf}
          frames={scoreFrames}
          describe={describe}
          onPoint={choose}
        />
      </figure>
      <figure class="stage-o">
        <figcaption>
          <b>O÷ℓ</b>
        </figcaption>
        <Heatmap
          name="O"
          label="Output so far"
          matrix={progress.output}
          limit={outputLimit}
          colorOf={outputColorOf}
          frames={rowFrame(v.columns)}
          readout={false}
        />
      </figure>
      <figure class="stage-v">
        <figcaption>
          <b>Vᵀ</b>{" "}
          {frame.phase === "accumulate" && <span class="muted">tile {tileText(frame)} loaded</span>}
        </figcaption>
        <Heatmap
          name="Vᵀ"
          label="Values"
          matrix={valueTransposed}
          frames={keyFrame("v")}
          readout={false}
        />
      </figure>
      <ul class="stage-legend">
        <li>
          score <Legend kind="signed" limit={scoreLimit} />
        </li>
        <li>
          <span>
            exp(score − <var>m</var>)
          </span>{" "}
          <Legend kind="unsigned" limit={1} />
        </li>
        <li>
          <HatchSample number={1} /> skipped
        </li>
        <li>
          <HatchSample number={3} /> masked
        </li>
      </ul>
    </div>
  );
}

const tileText = ({ firstKey, endKey }: TileFrame) => `${firstKey}–${endKey - 1}`;
