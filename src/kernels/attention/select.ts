import type { Capabilities } from "../../devices/capabilities.ts";
import { refuse } from "../../errors.ts";
import { type DecodeTile, decodeBytes } from "./decode.wgsl.ts";
import { type PrefillTile, prefillBytes } from "./prefill.wgsl.ts";
import { type MatrixTile, matrixBytes, matrixRows, matrixTile } from "./prefill-matrix.wgsl.ts";
import type { AttentionProblem } from "./problem.ts";
import { type ScoreTile, tileRows } from "./score-tile.wgsl.ts";
import { scoresBytes } from "./scores.wgsl.ts";
import { type KernelFlags, kernelFlags } from "./snippets.wgsl.ts";

// Which kernel takes a call, and with what tiles: pure functions of the problem and of what the
// device offers.

/** The fused kernels. */
export const attentionVariants = [
  "prefill-small",
  "prefill",
  "prefill-large",
  "prefill-matrix",
  "decode",
  "decode-subgroups",
] as const;

type PrefillVariant = "prefill-small" | "prefill" | "prefill-large";
type DecodeVariant = "decode" | "decode-subgroups";

export type AttentionVariant = (typeof attentionVariants)[number];

/** Throws unless `variant` is one of {@link attentionVariants}, or undefined. The CPU has no other. */
export function checkVariant(
  operation: string,
  variant: string | undefined,
): asserts variant is AttentionVariant | undefined {
  if (variant !== undefined && !(attentionVariants as readonly string[]).includes(variant))
    refuse(operation, `variant must be one of ${attentionVariants.join(", ")}`, variant);
}

/** A choice: the kernel, its tiles, and why. */
export type AttentionChoice = KernelChoice & { readonly reason: string };

type KernelChoice = {
  /** Shares that the keys are cut into; each row's are merged where there are more than one. */
  readonly splits: number;
} & (
  | {
      readonly kernel: "prefill";
      readonly variant: PrefillVariant;
      readonly tile: PrefillTile;
    }
  | {
      readonly kernel: "prefill-matrix";
      readonly variant: "prefill-matrix";
      readonly tile: MatrixTile;
    }
  | {
      readonly kernel: "decode";
      readonly variant: DecodeVariant;
      readonly tile: DecodeTile;
    }
);

/**
 * Chooses the kernel for a problem.
 *
 * @param forced The variant that the caller asks for.
 * @throws QkvError if `forced` is not a variant, or cannot take the problem on this device: naming the
 *   rule.
 */
export function selectAttention(
  problem: AttentionProblem,
  capabilities: Capabilities,
  forced?: string,
): AttentionChoice {
  checkVariant("attention", forced);
  if (forced !== undefined) {
    const attempt = attempts[forced as AttentionVariant](problem, capabilities);
    if (typeof attempt === "string") refuse("attention", `variant ${forced} needs ${attempt}`);
    return { ...attempt, reason: "asked for" };
  }
  for (const rule of rules) {
    if (!rule.when(problem, capabilities)) continue;
    for (const variant of rule.variants) {
      const attempt = attempts[variant](problem, capabilities);
      if (typeof attempt !== "string") return { ...attempt, reason: rule.reason };
    }
  }
  return refuse(
    "attention",
    "no kernel fits the device's workgroup memory of 16384 bytes or more",
    capabilities.workgroupBytes,
  );
}

interface Rule {
  readonly when: (problem: AttentionProblem, capabilities: Capabilities) => boolean;
  /** In order of preference; the next is taken where one does not fit. */
  readonly variants: readonly AttentionVariant[];
  readonly reason: string;
}

const rules: readonly Rule[] = [
  {
    // H100: 51.3 µs against 52.9 with subgroups (float16, 32 heads, 8192 keys), 95.2 against 96.8
    // (float32), 59.5 against 63.7 (8 heads in groups of 4, 32,768 keys): barriers do not cost it.
    // 8 rows of 32,768 keys, 8 heads: 80 µs against 111 on matrix units, and float32 134 against 165.
    when: (problem) => rowsOf(problem) <= 8,
    variants: ["decode"],
    reason: "few query rows, K and V read once",
  },
  {
    // H100, 32 heads, 4096 queries and keys of depth 128: 1183 µs; prefill-large takes 7570 of float32.
    when: (_, { matrixShapes }) => matrixShapes.length > 0,
    variants: ["prefill-matrix"],
    reason: "many query rows of halves: on matrix units",
  },
  // H100, float32, 8 heads, 32,768 keys of depth 128. 16 rows: 167 µs in small tiles, 239 by decode, 368
  // in tiles of 64 rows; 32 rows: 304, 435, 371. Depth 64, 8192 keys, 64 rows: 58 in tiles of 64, 75 of
  // 128, 86 in small ones.
  {
    when: (problem) => rowsOf(problem) <= 32,
    variants: ["prefill-small", "prefill"],
    reason: "some query rows: small tiles, which they fill",
  },
  {
    when: (problem) => rowsOf(problem) <= 64,
    variants: ["prefill", "prefill-small"],
    reason: "some query rows: a tile of 64, which they fill",
  },
  {
    when: (problem) => prefillGrid(problem) * worthwhileSplits(problem) >= 64,
    variants: ["prefill-large", "prefill"],
    reason: "many query rows: the largest tile of rows and keys that workgroup memory holds",
  },
  {
    when: () => true,
    variants: ["prefill-small", "prefill"],
    reason: "many query rows, but few tiles of 64: small tiles, so that there are more",
  },
];

/** Query rows that read one key/value head. */
const rowsOf = ({ queryHeads, kvHeads, queries }: AttentionProblem): number =>
  (queryHeads / kvHeads) * queries;

/** Workgroups of a prefill in tiles of 64 rows. */
const prefillGrid = (problem: AttentionProblem): number =>
  Math.ceil(rowsOf(problem) / 64) * problem.kvHeads * problem.batch;

/**
 * Splits that have keys enough. A prefill whose keys are not many times its rows stays one dispatch without
 * temporaries, as where a prompt attends to itself.
 */
const worthwhileSplits = (problem: AttentionProblem): number =>
  keySpan(problem) < 4 * rowsOf(problem)
    ? 1
    : Math.max(1, Math.floor(keySpan(problem) / leastKeysOfSplit));

/** At most this many keys are seen by a head's queries. */
function keySpan({ keys, window: [left, right], causal, queries }: AttentionProblem): number {
  const ahead = causal ? 0 : right;
  return left < 0 || ahead < 0 ? keys : Math.min(keys, left + ahead + queries);
}

/** Makes each variant's choice, or says what it lacks. */
const attempts: Record<
  AttentionVariant,
  (problem: AttentionProblem, capabilities: Capabilities) => KernelChoice | string
> = {
  "prefill-small": (problem, capabilities) =>
    prefill("prefill-small", problem, capabilities, 16384),
  prefill: (problem, capabilities) => prefill("prefill", problem, capabilities, 16384),
  "prefill-large": (problem, capabilities) =>
    capabilities.workgroupBytes < 32768
      ? "32768 bytes of workgroup memory"
      : prefill("prefill-large", problem, capabilities, 49152),
  "prefill-matrix": (problem, capabilities) => {
    const tile = matrixTile(problem, capabilities);
    if (typeof tile === "string") return tile;
    const bytes = matrixBytes(tile, problem.depth, problem.valueDepth);
    const splits = prefillSplits(problem, capabilities, matrixRows(tile), bytes);
    return { kernel: "prefill-matrix", variant: "prefill-matrix", tile, splits };
  },
  decode: (problem, capabilities) => decode("decode", problem, capabilities, undefined),
  "decode-subgroups": (problem, capabilities) =>
    capabilities.subgroups
      ? decode("decode-subgroups", problem, capabilities, capabilities.subgroups)
      : "the feature subgroups",
};

const tileShape = (lanes: number, columns: number, rowsPerLane: number, keysPerLane: number) => ({
  lanes,
  columns,
  rowsPerLane,
  keysPerLane,
  unrolled: false,
});

/**
 * Tiles in order of preference; the first is taken whose scores and output fit a lane's registers, and
 * that fits workgroup memory.
 *
 * H100, float32. Depth 128, 32 heads, 4096 queries and keys: 8 × 4 a lane, unrolled, 7570 µs (8697 not
 * unrolled), in 128 lanes 7985; 8 × 8 7735 (8027); 4 × 8 of 8 columns 7980 (8687). Depth 64, 96 heads,
 * 512 queries and keys: 8 × 8 229 µs (unrolled 241), 4 × 8 234, 8 × 4 248.
 */
const tileShapes: Record<PrefillVariant, readonly ReturnType<typeof tileShape>[]> = {
  "prefill-small": [tileShape(64, 16, 4, 4), tileShape(64, 32, 4, 4)],
  prefill: [
    tileShape(128, 8, 4, 8),
    tileShape(128, 16, 4, 4),
    tileShape(128, 32, 4, 4),
    tileShape(64, 32, 4, 4),
  ],
  "prefill-large": [
    tileShape(256, 16, 8, 8),
    { ...tileShape(256, 16, 8, 4), unrolled: true },
    { ...tileShape(128, 16, 8, 4), unrolled: true },
    tileShape(256, 16, 4, 4),
    tileShape(256, 32, 4, 4),
  ],
};

/** Registers that a lane has for scores and output: more are spilled, or leave a GPU too few lanes. */
const mostFloats = 96;

/** @param most Bytes of workgroup memory that its tiles are for. */
function prefill(
  variant: PrefillVariant,
  problem: AttentionProblem,
  capabilities: Capabilities,
  most: number,
): KernelChoice | string {
  const { depth, valueDepth } = problem;
  const bytes = Math.min(capabilities.workgroupBytes, most);
  for (const shape of tileShapes[variant]) {
    const { columns, rowsPerLane, keysPerLane } = shape;
    const outputs = 4 * Math.ceil(valueDepth / 4 / columns);
    if (rowsPerLane * (keysPerLane + outputs) > mostFloats) continue;
    // Deeper chunks and more values mean fewer barriers.
    for (const chunkQuads of [8, 4, 2])
      for (const valueKeys of [32, 16, 8, 4]) {
        const tile: PrefillTile = { ...shape, chunkQuads, valueKeys };
        const bytesOfTile = prefillBytes(tile, depth, valueDepth);
        if (bytesOfTile > bytes) continue;
        const splits = prefillSplits(problem, capabilities, tileRows(tile), bytesOfTile);
        return { kernel: "prefill", variant, tile, splits };
      }
  }
  return "a tile that fits workgroup memory";
}

/**
 * A large GPU, an H100 through Dawn: its multiprocessors, and the workgroup memory of each. Keys are split
 * until there are workgroups for it, and no more: a second wave costs as much as the first. A smaller GPU
 * gets more than it can run at once, at the price of a longer merge.
 */
const largeGPU = { multiprocessors: 132, workgroupBytes: 52 * 1024 };

/**
 * Workgroups of a decode on each multiprocessor. One more for each of 32 heads took 594 µs for what these
 * did in 353 (float16, 65,536 keys).
 */
const decodesAtOnce = 2;

/** A split of fewer keys is not worth its part of the merge. */
const leastKeysOfSplit = 256;

/**
 * Of more keys than these, a float32 sum of values loses too much: 0.4e-4 of itself at this number, 2.6e-4
 * at four times as many.
 */
const mostKeysOfSplit = 2 ** 18;

/** Splits that fill a large GPU with workgroups of so many rows, `atOnce` on each multiprocessor. */
function fillingSplits(problem: AttentionProblem, rows: number, atOnce: number): number {
  const workgroups = Math.ceil(rowsOf(problem) / rows) * problem.kvHeads * problem.batch;
  const room = Math.floor((largeGPU.multiprocessors * atOnce) / workgroups);
  return Math.max(1, Math.min(room, worthwhileSplits(problem)));
}

/** Splits of a prefill by workgroups of so many rows and bytes, their partials within the limits. */
function prefillSplits(
  problem: AttentionProblem,
  { bindingBytes }: Capabilities,
  rows: number,
  bytes: number,
): number {
  const atOnce = Math.max(1, Math.floor(largeGPU.workgroupBytes / bytes));
  const wanted = Math.max(
    fillingSplits(problem, rows, atOnce),
    Math.ceil(keySpan(problem) / mostKeysOfSplit),
  );
  const { batch, queryHeads, queries, valueDepth } = problem;
  const partials = 16 * batch * queryHeads * queries * Math.ceil(valueDepth / 4);
  return Math.max(1, Math.min(wanted, Math.floor(bindingBytes / partials)));
}

function decode(
  variant: DecodeVariant,
  problem: AttentionProblem,
  capabilities: Capabilities,
  subgroups: Capabilities["subgroups"],
): KernelChoice | string {
  const flags = kernelFlags(problem);
  const tile = decodeTile(flags, rowsOf(problem), subgroups, capabilities.workgroupBytes);
  if (subgroups && tile.lanes % subgroups.max !== 0)
    return "subgroups of a power of two, to 128 lanes";
  if (decodeBytes(tile, flags) > capabilities.workgroupBytes)
    return "a tile that fits workgroup memory";
  const splits = fillingSplits(problem, tile.rows, decodesAtOnce);
  return { kernel: "decode", variant, tile, splits };
}

/** Loads that a row of key or value takes of `lanes` lanes. */
const loadsPerLane = (lanes: number, length: number, width: number): number =>
  Math.ceil(length / (Math.max(4, width) * lanes));

/** The tile for packs of up to `rows` query rows. */
function decodeTile(
  flags: KernelFlags,
  rows: number,
  subgroups: Capabilities["subgroups"],
  workgroupBytes: number,
): DecodeTile {
  const { depth, valueDepth, widths } = flags;
  // Loads that the longer row takes: two for each lane, or one where a pack's scores fill its registers.
  const wanted = Math.max(
    loadsPerLane(1, depth, widths.key),
    loadsPerLane(1, valueDepth, widths.value),
  );
  const packWanted = Math.min(2 ** Math.ceil(Math.log2(rows)), 8);
  const lanesPerKey = Math.min(
    Math.max(4, 2 ** Math.ceil(Math.log2(wanted / (packWanted < 4 ? 2 : 1)))),
    subgroups ? Math.min(32, subgroups.min) : 32,
  );
  const keyUnits = loadsPerLane(lanesPerKey, depth, widths.key);
  const valueUnits = loadsPerLane(lanesPerKey, valueDepth, widths.value);
  // Registers: a query row and its accumulators, at most 128 floats for all rows …
  const floats = 4 * Math.max(1, Math.max(widths.key, widths.value) / 4) * (keyUnits + valueUnits);
  const most = Math.max(1, 2 ** Math.floor(Math.log2(128 / floats)));
  const packRows = Math.min(packWanted, most);
  // … and the keys and values in flight.
  const keysInFlight = keyUnits + valueUnits <= 4 && packRows <= 4 ? 8 : 4;
  const exchange = subgroups ? "subgroups" : "workgroup";
  const tile = { lanes: 128, lanesPerKey, keysInFlight, rows: packRows, exchange } as const;
  // The parts of dot products take lanes · keys · rows · 4 bytes of workgroup memory.
  const tiles: DecodeTile[] = [
    tile,
    { ...tile, keysInFlight: 4 },
    { ...tile, keysInFlight: 4, lanes: 64 },
  ];
  return tiles.find((fitting) => decodeBytes(fitting, flags) <= workgroupBytes) ?? tile;
}

/** The tile of the kernel that writes scores. */
export function selectScoreTile(problem: AttentionProblem): ScoreTile {
  const tile: ScoreTile = {
    lanes: 128,
    columns: 8,
    rowsPerLane: 4,
    keysPerLane: 4,
    chunkQuads: 8,
    unrolled: false,
  };
  // 64 rows and 32 keys of 32 elements: 13,824 bytes whatever the depth.
  if (scoresBytes(tile, problem.depth) > 16384)
    refuse("attention", "no tile fits workgroup memory");
  return tile;
}
