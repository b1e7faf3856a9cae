/** One attention call: `[batch, heads, rows, depth]` tensors, or the vector layout. */
export interface BenchCase {
  readonly name: string;
  readonly dtype: "float32" | "float16";
  readonly batch: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly queries: number;
  readonly keys: number;
  readonly depth: number;
  readonly causal: boolean;
  /** One query `[depth]` over `[keys, depth]`, and no axes of batches and heads. */
  readonly vector: boolean;
  /** Microseconds that we mean to reach on an H100, and would like to. */
  readonly goal?: readonly [reach: number, ...stretch: number[]];
  /** Also time a call from JavaScript until its result is there. */
  readonly roundTrip?: boolean;
}

type Sizes = Partial<BenchCase> & Pick<BenchCase, "queries" | "keys" | "depth">;

function benchCase(name: string, dtype: BenchCase["dtype"], sizes: Sizes): BenchCase {
  const heads = sizes.heads ?? 1;
  return {
    name,
    dtype,
    batch: 1,
    heads,
    kvHeads: heads,
    causal: false,
    vector: false,
    ...sizes,
  };
}

const decode = { heads: 32, queries: 1, keys: 8192, depth: 128 };
const encoder = { batch: 8, heads: 12, queries: 512, keys: 512, depth: 64 };
const prefill = { heads: 32, queries: 4096, keys: 4096, depth: 128 };
/** More tokens of a prompt, or some that a smaller model drafted, after many: few tiles of rows. */
const chunk = { heads: 32, kvHeads: 8, queries: 64, keys: 32_768, depth: 128 };
const vector = { queries: 1, vector: true };

const cases: readonly BenchCase[] = [
  benchCase("vector f32", "float32", {
    ...vector,
    keys: 1_048_576,
    depth: 128,
    goal: [435, 400],
  }),
  benchCase("decode f32", "float32", { ...decode, goal: [105, 98] }),
  benchCase("decode f16", "float16", { ...decode, goal: [56, 51] }),
  benchCase("decode f16 long", "float16", { ...decode, keys: 65_536, goal: [390] }),
  benchCase("decode f16 GQA", "float16", { ...decode, kvHeads: 8, keys: 32_768, goal: [60] }),
  benchCase("encoder f32", "float32", { ...encoder, goal: [233, 200] }),
  benchCase("encoder f16", "float16", { ...encoder, goal: [110, 70] }),
  benchCase("prefill f32", "float32", { ...prefill, goal: [7854, 6109] }),
  benchCase("prefill f32 causal", "float32", { ...prefill, causal: true }),
  benchCase("prefill f16", "float16", { ...prefill, goal: [1200, 840] }),
  benchCase("prefill f16 causal", "float16", { ...prefill, causal: true, goal: [750, 545] }),
  benchCase("chunk f32", "float32", chunk),
  benchCase("chunk f16", "float16", chunk),
  benchCase("vector 16×16", "float32", {
    ...vector,
    keys: 16,
    depth: 16,
    goal: [6],
    roundTrip: true,
  }),
];

/** The same cases in sizes for a GPU in software. */
function small(of: BenchCase): BenchCase {
  const { goal, ...rest } = of;
  const heads = Math.min(of.heads, 4);
  return {
    ...rest,
    batch: Math.min(of.batch, 2),
    heads,
    kvHeads: of.kvHeads === of.heads ? heads : 2,
    queries: Math.min(of.queries, 128),
    keys: Math.min(of.keys, of.queries === 1 ? 2048 : 128),
  };
}

/** The cases whose name holds one of `wanted`; all where none is given. */
export function selectCases(wanted: readonly string[], inSmall: boolean): BenchCase[] {
  return cases
    .filter(({ name }) => wanted.length === 0 || wanted.some((part) => name.includes(part)))
    .map((each) => (inSmall ? small(each) : each));
}

export const shapes = ({ batch, heads, kvHeads, queries, keys, depth, vector }: BenchCase) =>
  vector
    ? { query: [depth], key: [keys, depth], output: [depth] }
    : {
        query: [batch, heads, queries, depth],
        key: [batch, kvHeads, keys, depth],
        output: [batch, heads, queries, depth],
      };

/** Pairs of a query and a key that it sees. */
const pairs = ({ batch, heads, queries, keys, causal }: BenchCase): number =>
  batch * heads * (causal ? (queries * (queries + 1)) / 2 : queries * keys);

/** Of both matrix products; a multiply-add counts as two. */
export const floatingPointOperations = (each: BenchCase): number => 4 * pairs(each) * each.depth;

/** Least bytes moved: each input read once, the output written once. */
export function bytesMoved({
  dtype,
  batch,
  heads,
  kvHeads,
  queries,
  keys,
  depth,
}: BenchCase): number {
  const elements = batch * depth * (2 * heads * queries + 2 * kvHeads * keys);
  return elements * (dtype === "float32" ? 4 : 2);
}

export const dimensions = ({
  batch,
  heads,
  kvHeads,
  queries,
  keys,
  depth,
  causal,
}: BenchCase): string =>
  `B${batch} H${heads}${kvHeads === heads ? "" : `/${kvHeads}`} S${queries} L${keys} D${depth}${causal ? " causal" : ""}`;
