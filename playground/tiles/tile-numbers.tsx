import { formatNumber } from "../numbers/format.ts";
import { keepFactor, type Phase, type TileFrame } from "./online-softmax.ts";

const titles: Readonly<Record<Phase, string>> = {
  skip: "Skip",
  scores: "Scores",
  rescale: "Raise the maximum, rescale",
  accumulate: "Add the tile",
  finish: "Divide by ℓ",
};

/** What happens in a frame, with the numbers of one row. */
export function TileNumbers(props: {
  readonly frame: TileFrame;
  /** Counted from the tile's first row. */
  readonly row: number;
  readonly smooth: boolean;
}) {
  const { frame, row, smooth } = props;
  const { phase, firstRow, lastRow, firstKey, endKey, partial, before, after } = frame;
  const rows = `${firstRow}–${lastRow}`;
  const keys = `${firstKey}–${endKey - 1}`;
  const query = firstRow + row;
  const [m0, m1] = [before.maximum[row]!, after.maximum[row]!];
  const [l0, l1] = [before.sum[row]!, after.sum[row]!];
  const width = before.output.length / before.sum.length;
  const [o0, o1] = [before.output[row * width]!, after.output[row * width]!];
  const keep = keepFactor(m0, m1);
  const text: Readonly<Record<Phase, string>> = {
    skip: `No query of rows ${rows} may see keys ${keys}: their tiles are neither loaded nor computed.`,
    scores: `The workgroup of rows ${rows} loads keys ${keys} into workgroup memory, and each lane multiplies its rows with its keys.${partial ? " Some rows may not see all of them: this tile runs the code of masks." : " Every row sees the whole tile: no mask is applied."}`,
    rescale:
      keep === 1
        ? "No score of the tile is above the row's maximum: nothing changes."
        : "The tile holds a larger score. What was summed relative to the old maximum is multiplied by exp(old − new).",
    accumulate: `Values ${keys} take the place of the keys in workgroup memory. Their weights, exp(score − m), join ℓ; the weighted values join the output.`,
    finish:
      "All keys are seen. One division a row, and the workgroup writes its output: the only thing it writes.",
  };
  return (
    <div class={`tile-numbers ${smooth ? "smooth" : ""}`} aria-live="off">
      <p>
        <b>{titles[phase]}.</b> {text[phase]}
      </p>
      <dl class="facts" data-testid="tile-numbers">
        <div class="fact">
          <dt>query</dt>
          <dd>{query}</dd>
        </div>
        <div class="fact">
          <dt>
            <var>m</var>, largest score
          </dt>
          <dd>
            {formatNumber(m0)}
            {m0 !== m1 && <b> → {formatNumber(m1)}</b>}
          </dd>
        </div>
        <div class="fact">
          <dt>exp(old − new)</dt>
          <dd>
            {phase === "rescale" ? <b>{formatNumber(keep)}</b> : "1"}
            <span class="keep-bar" style={{ "--keep": phase === "rescale" ? keep : 1 }} />
          </dd>
        </div>
        <div class="fact">
          <dt>
            <var>ℓ</var>, sum of weights
          </dt>
          <dd>
            {formatNumber(l0)}
            {l0 !== l1 && <b> → {formatNumber(l1)}</b>}
          </dd>
        </div>
        <div class="fact">
          <dt>output[0]</dt>
          <dd>
            {formatNumber(o0)}
            {o0 !== o1 && <b> → {formatNumber(o1)}</b>}
          </dd>
        </div>
      </dl>
    </div>
  );
}
