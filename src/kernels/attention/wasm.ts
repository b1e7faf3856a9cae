import { floatBits, type TensorShape, type WasmLaunch } from "../../devices/kernel.ts";
import type { AttentionDType, AttentionOutput, AttentionProblem } from "./problem.ts";
import { type AttentionInputs, type AttentionResults, inputStrides } from "./spec.ts";

/** The outputs of a job of its own, in its order. */
const scoreOutputs = [
  "scores",
  "softcappedScores",
  "biasedScores",
  "weights",
] as const satisfies readonly AttentionOutput[];

/** From this many query rows a key/value head on, panels of eight rows pay. */
const prefillRows = 8;
const prefillTileRows = 64;
/**
 * A multiple of 6, so that the micro-kernel has no rest. What softmax does once a block shows in 48: 1 %
 * more time.
 */
const prefillBlockKeys = 96;
/** Tasks a thread, so that threads end at about the same time. */
const tasksPerThread = 8;
/** Keys of a part (of all its heads together), at least; and at most, so that sums of float32 stay accurate. */
const fewestSplitKeys = 768;
const mostSplitKeys = 12_288;

const dtypeCodes: Readonly<Record<AttentionDType | "bool", number>> = {
  float32: 0,
  float16: 1,
  bfloat16: 2,
  bool: 3,
};
const noMask = 4;
/** Floats of whole rows that a tile keeps for its weights: they ought to stay in the second-level cache. */
const keptScores = 65_536;
/** Lengths beyond all others: windows may be any integer. */
const far = 2 ** 30;

type Tensors = AttentionInputs<TensorShape> & AttentionResults<TensorShape>;

/** The jobs for one attention call. */
export function attentionLaunches(
  problem: AttentionProblem,
  tensors: Tensors,
  threads: number,
): readonly WasmLaunch[] {
  const attention = attentionLaunch(problem, tensors, threads);
  return scoreOutputs.some((name) => problem.outputs.includes(name))
    ? [attention, scoresLaunch(problem, tensors, threads)]
    : [attention];
}

function attentionLaunch(problem: AttentionProblem, tensors: Tensors, threads: number): WasmLaunch {
  const { batch, queryHeads, kvHeads, queries, keys, depth, valueDepth } = problem;
  const rows = (queryHeads / kvHeads) * queries;
  const decode = rows < prefillRows;
  const key = inputStrides(tensors.key.shape, kvHeads);
  const tileHeads =
    decode && key.head < key.row ? headsOfTile(kvHeads, Math.floor(prefillRows / rows)) : 1;
  const tileRows = decode ? rows * tileHeads : Math.min(rows, prefillTileRows);
  const tilesPerHead = Math.ceil(rows / tileRows);
  const tiles = batch * (kvHeads / tileHeads) * tilesPerHead;
  const blockKeys = decode
    ? 4 * Math.min(Math.max(Math.floor(1024 / depth), 4), 64)
    : prefillBlockKeys;
  const wanted = threads === 1 ? 1 : Math.ceil((tasksPerThread * threads) / tiles);
  const parts = Math.max(
    Math.min(wanted, Math.floor((keys * tileHeads) / fewestSplitKeys)),
    Math.ceil(keys / mostSplitKeys),
    1,
  );
  const splitKeys = Math.ceil(Math.ceil(keys / parts) / blockKeys) * blockKeys;
  const splits = Math.ceil(keys / splitKeys);
  const copies = tensors.presentKey || tensors.presentValue ? batch * kvHeads : 0;
  const attentionTasks = tiles * splits;

  // One count a tile, and then what each part leaves of each row: maximum, total, sums.
  const countBytes = Math.ceil((4 * tiles) / 16) * 16;
  const recordBytes = 16 + 16 * Math.ceil(valueDepth / 4);
  return {
    function: "attention",
    tasks: attentionTasks + copies,
    work: batch * queryHeads * queries * keys * (depth + valueDepth),
    scratch: "attentionScratch",
    sharedBytes: splits > 1 ? countBytes + tiles * splits * tileRows * recordBytes : 0,
    zeroBytes: splits > 1 ? countBytes : 0,
    words: [
      ...problemWords(problem, tensors, countBytes),
      ...[tileRows, tilesPerHead, splits, splitKeys, blockKeys],
      ...[decode ? 1 : 0, attentionTasks, tileHeads],
    ],
  };
}

/** The job that writes the scores and weights: prefill's products again, whatever the rows. */
function scoresLaunch(problem: AttentionProblem, tensors: Tensors, threads: number): WasmLaunch {
  const { batch, queryHeads, kvHeads, queries, keys, depth } = problem;
  const weights = problem.outputs.includes("weights");
  const rows = (queryHeads / kvHeads) * queries;
  const panels = Math.ceil(rows / prefillRows);
  const wanted = Math.floor((batch * kvHeads * panels) / (tasksPerThread * threads));
  const kept = weights ? Math.floor(keptScores / (prefillRows * keys)) : Infinity;
  const most = Math.min(wanted, kept, prefillTileRows / prefillRows);
  const tileRows = prefillRows * Math.max(most, 1);
  const tilesPerHead = Math.ceil(rows / tileRows);
  const tasks = batch * kvHeads * tilesPerHead;
  return {
    function: "attentionScores",
    tasks,
    work: batch * queryHeads * queries * keys * depth,
    scratch: "attentionScoresScratch",
    words: [
      ...problemWords(problem, tensors, 0),
      ...[tileRows, tilesPerHead, 1, keys, prefillBlockKeys],
      ...[0, tasks, 1],
      ...scoreOutputs.map((name) => ({ tensor: name })),
      weights ? keys : prefillBlockKeys,
    ],
  };
}

/** The words that say what is computed; those that say how come next. */
function problemWords(
  problem: AttentionProblem,
  tensors: Tensors,
  partials: number,
): WasmLaunch["words"] {
  const { queryHeads, kvHeads, queries, keys, past, depth, valueDepth, mask } = problem;
  const { query, output } = problem.strides;
  const key = inputStrides(tensors.key.shape, kvHeads);
  const value = inputStrides(tensors.value.shape, kvHeads);
  const maskStrides = mask?.strides ?? { batch: 0, head: 0, query: 0, key: 0 };
  const tensor = (name: string) => ({ tensor: name });
  const [left, right] = problem.window.map((side) => Math.min(side, far)) as [number, number];
  return [
    ...[tensor("query"), tensor("key"), tensor("value")],
    ...[tensor("pastKey"), tensor("pastValue"), tensor("mask"), tensor("kvLengths")],
    ...[tensor("output"), tensor("lse"), tensor("presentKey"), tensor("presentValue")],
    ...[{ shared: partials }, { shared: 0 }],
    dtypeCodes[problem.dtype],
    mask ? dtypeCodes[mask.dtype as keyof typeof dtypeCodes] : noMask,
    ...[queryHeads, kvHeads, queries, keys, past, depth, valueDepth],
    ...[floatBits(problem.scale), floatBits(problem.softcap)],
    dtypeCodes[problem.softmaxDtype ?? "float32"],
    ...[problem.causal ? 1 : 0, left, right],
    ...[query.batch, query.head, query.row],
    ...[key.batch, key.head, key.row],
    ...[value.batch, value.head, value.row],
    ...[output.batch, output.head, output.row],
    ...[maskStrides.batch, maskStrides.head, maskStrides.query, maskStrides.key],
    mask?.keys ?? keys,
  ];
}

/** The most heads, `limit` at most, of which a whole number of tiles makes `heads`. */
function headsOfTile(heads: number, limit: number): number {
  let most = Math.min(heads, limit);
  while (heads % most !== 0) most--;
  return most;
}
