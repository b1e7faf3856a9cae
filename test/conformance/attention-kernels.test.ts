import { describe, test } from "node:test";
import { assert } from "chai";
import fc from "fast-check";
import { type Capabilities, portableCapabilities } from "../../src/devices/capabilities.ts";
import type { DeviceTensor } from "../../src/devices/device.ts";
import type { WebGPUDevice } from "../../src/index.ts";
import { recordChoice } from "../../src/kernels/attention/launch.ts";
import type { AttentionProblem } from "../../src/kernels/attention/problem.ts";
import {
  type AttentionChoice,
  type AttentionVariant,
  attentionVariants,
  selectAttention,
} from "../../src/kernels/attention/select.ts";
import {
  type AttentionInputs,
  type AttentionResults,
  inverseRootDepth,
  resolveAttention,
} from "../../src/kernels/attention/spec.ts";
import {
  type AttentionCaseDescription,
  assertCase,
  attentionCase,
  attentionCases,
  poisonedOutputs,
} from "../support/attention-cases.ts";
import { onEachWebGPU } from "../support/devices.ts";
import { seed, sweep } from "../support/random.ts";

// Every fused kernel against the float64 reference, and how one is chosen. To compile a kernel
// takes a software GPU a second or more, so each one drawn is run at several lengths, and most with
// small tiles: the text of a kernel is made for any tile.

/** Runs one case with a choice of kernel. */
async function runCase(
  device: WebGPUDevice,
  description: AttentionCaseDescription,
  choose: (problem: AttentionProblem) => AttentionChoice,
): Promise<void> {
  const attention = attentionCase(description);
  const { problem, inputs } = attention;
  const choice = choose(problem);
  const tensors: Record<string, DeviceTensor> = {};
  for (const [name, tensor] of Object.entries({ ...inputs, ...poisonedOutputs(attention) }))
    if (tensor) tensors[name] = device.upload(tensor);
  const given = tensors as unknown as AttentionInputs<DeviceTensor> &
    AttentionResults<DeviceTensor>;
  recordChoice(device, problem, given, choice);
  const read = problem.outputs.map(async (name) => [name, await tensors[name]!.read()]);
  const got = Object.fromEntries(await Promise.all(read));
  for (const tensor of Object.values(tensors)) tensor.destroy();
  try {
    assertCase(attention, got, "webgpu");
  } catch (error) {
    if (error instanceof Error) error.message += `\nchoice: ${JSON.stringify(choice)}`;
    throw error;
  }
}

/** How a drawn choice departs from that of {@link selectAttention}. */
interface Tweak {
  readonly splits: number;
  /** Small tiles, of at most these rows in a pack. */
  readonly small: boolean;
  readonly rows: number;
}

const tweaks: fc.Arbitrary<Tweak> = fc.record({
  splits: fc.constantFrom(1, 1, 2, 3, 7, 40),
  small: fc.constantFrom(true, true, true, false),
  rows: fc.constantFrom(1, 2, 4),
});

function tweaked(selected: AttentionChoice, { splits, small, rows }: Tweak): AttentionChoice {
  const choice = { ...selected, splits };
  if (!small || choice.kernel === "prefill-matrix") return choice;
  if (choice.kernel === "decode") {
    const { tile } = choice;
    const lanes = tile.exchange === "subgroups" ? 128 : 64;
    const smallTile = { ...tile, rows: Math.min(tile.rows, rows), keysInFlight: 4, lanes };
    return { ...choice, tile: smallTile };
  }
  // No number grows, so that it fits where the choice did.
  const { lanes, columns, valueKeys } = choice.tile;
  return {
    ...choice,
    tile: {
      ...choice.tile,
      lanes: Math.min(lanes, 4 * columns),
      rowsPerLane: 4,
      keysPerLane: 4,
      valueKeys: Math.min(valueKeys, 8),
      unrolled: false,
    },
  };
}

/** Other lengths for the same text. */
const lengths = fc.constantFrom(1, 2, 3, 5, 8, 13, 16, 17, 31, 33, 40, 63, 64, 65, 97);
const side = fc.constantFrom(-1, -1, 0, 1, 5, 20, 60);
const otherLengths = fc.record({
  seed: fc.nat(2 ** 20),
  queries: lengths,
  kv: fc.oneof(lengths, fc.constantFrom(150, 257, 600)),
  causal: fc.boolean(),
  window: fc.tuple(side, side),
  group: fc.constantFrom(1, 2, 3, 8),
  kvHeads: fc.constantFrom(1, 2),
  batch: fc.constantFrom(1, 2),
});

function withLengths(
  description: AttentionCaseDescription,
  other: Partial<AttentionCaseDescription>,
): AttentionCaseDescription {
  const flat = description.layout === "vector" || description.layout === "matrix";
  const d = {
    ...description,
    ...other,
    ...(flat && { group: 1, kvHeads: 1, batch: 1 }),
    ...(description.layout === "vector" && { queries: 1 }),
  };
  const work = () =>
    d.batch * d.kvHeads * d.group * d.queries * (d.kv + d.past) * Math.max(d.depth, d.valueDepth);
  if (work() > 1e6) d.queries = Math.min(d.queries, 5);
  if (work() > 1e6) d.batch = d.kvHeads = 1;
  if (work() > 1e6) d.kv = Math.min(d.kv, 33);
  return d;
}

/** What a device must have for a variant; the others run everywhere. */
const needs: Partial<Record<AttentionVariant, (capabilities: Capabilities) => boolean>> = {
  "prefill-large": ({ workgroupBytes }) => workgroupBytes >= 32768,
  "prefill-matrix": ({ float16, matrixShapes }) => float16 && matrixShapes.length > 0,
  "decode-subgroups": ({ subgroups }) => subgroups !== undefined,
};

/** A case that the kernel on matrix units takes. */
function onMatrixUnits(description: AttentionCaseDescription): AttentionCaseDescription {
  const { mask, softmaxDtype, scale, ...rest } = description;
  const multiple = (depth: number) => Math.min(128, Math.ceil(depth / 16) * 16);
  return {
    ...rest,
    dtype: "float16",
    depth: multiple(rest.depth),
    valueDepth: multiple(rest.valueDepth),
    ...(scale !== undefined && { scale: Math.abs(scale) }),
  };
}

/** Makes every kernel take more than 12 workgroups, and at most 144. */
const folding: AttentionCaseDescription = {
  seed: 1,
  layout: "4-D",
  dtype: "float32",
  batch: 1,
  kvHeads: 1,
  group: 1,
  queries: 100,
  kv: 990,
  past: 10,
  depth: 16,
  valueDepth: 16,
  causal: true,
  softcap: 0,
  kvLengths: false,
  outputs: ["lse", "weights", "presentKey"],
  scores: "small",
  plant: "nothing",
};

onEachWebGPU("attention kernels", (device) => {
  for (const variant of attentionVariants)
    test(`${variant}: random cases, where the device can run it`, async () => {
      const { capabilities } = device();
      const choose = (problem: AttentionProblem) => selectAttention(problem, capabilities, variant);
      if (needs[variant]?.(capabilities) === false) {
        const { problem } = attentionCase(fc.sample(attentionCases(), 1)[0]!);
        assert.throws(() => choose(problem), `attention: variant ${variant} needs`);
        return;
      }
      // A key of a subgroup of 4 lanes has a great many registers at great depth.
      const limits = { work: 2e5 };
      const narrow = (d: AttentionCaseDescription) =>
        variant === "prefill-matrix"
          ? onMatrixUnits(d)
          : variant === "decode-subgroups"
            ? { ...d, depth: Math.min(d.depth, 80), valueDepth: Math.min(d.valueDepth, 80) }
            : d;
      await fc.assert(
        fc.asyncProperty(
          attentionCases(limits).map(narrow),
          tweaks,
          fc.array(otherLengths, { minLength: 3, maxLength: 5 }),
          async (description, tweak, others) => {
            const chosen = (problem: AttentionProblem) => tweaked(choose(problem), tweak);
            await runCase(device(), description, chosen);
            for (const other of others)
              await runCase(device(), withLengths(description, other), chosen);
          },
        ),
        // Other cases for each variant.
        { ...sweep(2), seed: seed + attentionVariants.indexOf(variant), endOnFailure: true },
      );
    });

  test("grids over the limit of an axis fold into two", async () => {
    const { capabilities } = device();
    const limited: { capabilities: Capabilities } = device();
    limited.capabilities = { ...capabilities, workgroupsPerDimension: 12 };
    try {
      for (const variant of ["prefill-small", "decode"])
        await runCase(device(), folding, (problem) =>
          tweaked(selectAttention(problem, capabilities, variant), {
            splits: 3,
            small: true,
            rows: 4,
          }),
        );
    } finally {
      limited.capabilities = capabilities;
    }
  });
});

describe("attention: the choice of a kernel", () => {
  interface Sizes {
    readonly batch?: number;
    readonly heads?: number;
    readonly group?: number;
    readonly queries: number;
    readonly kv: number;
    readonly depth?: number;
  }
  const problem = ({ batch = 1, heads = 1, group = 1, queries, kv, depth = 128 }: Sizes) => {
    const tensor = (...shape: number[]) => ({ dtype: "float32" as const, shape });
    const query = tensor(batch, heads * group, queries, depth);
    const key = tensor(batch, heads, kv, depth);
    return resolveAttention("attention", query, key, key, {}, inverseRootDepth).problem;
  };
  const large: Capabilities = {
    ...portableCapabilities,
    subgroups: { min: 32, max: 32 },
    workgroupBytes: 49152,
    invocations: 1024,
  };

  test("one query, many keys: decode, split until the device is full", () => {
    const choice = selectAttention(problem({ queries: 1, kv: 2 ** 20 }), large);
    assert(choice.kernel === "decode");
    assert.equal(choice.variant, "decode");
    assert.equal(choice.splits, 264);
    const heads = selectAttention(problem({ heads: 32, queries: 1, kv: 8192 }), large);
    assert(heads.kernel === "decode");
    assert.equal(heads.splits, 8);
  });

  test("one query, few keys: decode in one split, without a merge", () => {
    const choice = selectAttention(problem({ queries: 1, kv: 16, depth: 16 }), large);
    assert(choice.kernel === "decode");
    assert.equal(choice.splits, 1);
  });

  test("a group's query heads are packed", () => {
    const choice = selectAttention(problem({ heads: 8, group: 4, queries: 1, kv: 32768 }), large);
    assert(choice.kernel === "decode");
    assert.equal(choice.tile.rows, 4);
  });

  test("many queries: prefill, in tiles as large as workgroup memory allows", () => {
    const sizes = problem({ heads: 32, queries: 4096, kv: 4096 });
    assert.equal(selectAttention(sizes, large).variant, "prefill-large");
    assert.equal(selectAttention(sizes, portableCapabilities).variant, "prefill");
    const few = problem({ queries: 128, kv: 128 });
    assert.equal(selectAttention(few, large).variant, "prefill-small");
  });

  test("some query rows: tiles that they fill", () => {
    const variant = (queries: number) =>
      selectAttention(problem({ heads: 8, queries, kv: 8192 }), large).variant;
    assert.equal(variant(8), "decode");
    assert.equal(variant(9), "prefill-small");
    assert.equal(variant(32), "prefill-small");
    assert.equal(variant(33), "prefill");
    assert.equal(variant(64), "prefill");
    assert.equal(variant(65), "prefill-large");
  });

  test("few tiles of query rows, many keys: prefill, split until the device is full", () => {
    const chunk = selectAttention(problem({ heads: 8, group: 4, queries: 64, kv: 32768 }), large);
    assert.equal(chunk.variant, "prefill-large");
    // 2 tiles of 128 rows for each of 8 heads, of the 132 that the device runs at once.
    assert.equal(chunk.splits, 8);
    // Two shares of 256 keys.
    assert.equal(selectAttention(problem({ queries: 100, kv: 600 }), large).splits, 2);
    for (const [queries, kv] of [
      [100, 399],
      [1024, 1024],
      [4096, 16383],
    ] as const)
      assert.equal(selectAttention(problem({ queries, kv }), large).splits, 1, `${queries} ${kv}`);
  });

  test("a sum takes at most 2^18 keys, where the partials' binding allows", () => {
    const many = (kv: number) => problem({ heads: 32, queries: 4096, kv, depth: 64 });
    const splits = (kv: number, bindingBytes: number) =>
      selectAttention(many(kv), { ...large, bindingBytes }).splits;
    assert.equal(splits(2 ** 18, 2 ** 31), 1);
    assert.equal(splits(2 ** 18 + 1, 2 ** 31), 2);
    assert.equal(splits(2 ** 20, 2 ** 31), 4);
    const bytesOfSplit = 32 * 4096 * 64 * 4;
    assert.equal(splits(2 ** 20, 3 * bytesOfSplit), 3);
    assert.equal(splits(2 ** 20, bytesOfSplit - 1), 1);
  });

  test("every depth has a tile within the limits, of every variant", () => {
    for (const variant of attentionVariants.filter((name) => name !== "prefill-matrix"))
      for (let depth = 1; depth <= 512; depth++)
        for (const queries of [1, 5, 300])
          selectAttention(problem({ queries, kv: 1000, depth }), large, variant);
    for (const variant of ["prefill-small", "prefill", "decode"])
      for (let depth = 1; depth <= 512; depth++)
        selectAttention(problem({ queries: 8, kv: 1000, depth }), portableCapabilities, variant);
  });

  test("a forced variant that cannot be is refused", () => {
    const sizes = problem({ queries: 1, kv: 16 });
    const force = (variant: string) => () => selectAttention(sizes, portableCapabilities, variant);
    assert.throws(
      force("prefill-large"),
      "attention: variant prefill-large needs 32768 bytes of workgroup memory",
    );
    assert.throws(
      force("decode-subgroups"),
      "attention: variant decode-subgroups needs the feature subgroups",
    );
    assert.throws(force("fast"), /^attention: variant must be one of .*, got "fast"$/);
    assert.equal(selectAttention(sizes, portableCapabilities, "prefill").reason, "asked for");
  });
});
