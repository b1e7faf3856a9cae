/** A float32 attention call. */
export interface BenchCase {
  readonly name: string;
  readonly batch: number;
  readonly heads: number;
  readonly queries: number;
  readonly keys: number;
  readonly depth: number;
  /** Tensors are `[batch, rows, heads · depth]`; else `[batch, heads, rows, depth]`. */
  readonly packed?: boolean;
  /** Ops of the chain by which peers are timed. */
  readonly chain: number;
  /** Whether the peers take it; else it is too large for them. */
  readonly peers: boolean;
}

const sizes = (batch: number, heads: number, queries: number, keys: number, depth: number) => ({
  batch,
  heads,
  queries,
  keys,
  depth,
});

export const cases: readonly BenchCase[] = [
  { name: "decode", ...sizes(1, 8, 1, 8192, 64), chain: 9, peers: true },
  { name: "decode, packed", ...sizes(1, 8, 1, 8192, 64), packed: true, chain: 9, peers: true },
  { name: "prefill", ...sizes(1, 8, 1024, 1024, 64), chain: 3, peers: true },
  { name: "encoder", ...sizes(4, 12, 128, 128, 32), chain: 9, peers: true },
  { name: "vector", ...sizes(1, 1, 1, 1_000_000, 128), chain: 3, peers: false },
  { name: "16×16", ...sizes(1, 1, 16, 16, 16), chain: 101, peers: true },
];

/** Multiply-adds count as two. */
export const flops = ({ batch, heads, queries, keys, depth }: BenchCase): number =>
  4 * batch * heads * queries * keys * depth;

/** Of keys and values. */
export const bytes = ({ batch, heads, keys, depth }: BenchCase): number =>
  8 * batch * heads * keys * depth;

export const packedShape = (batch: number, heads: number, rows: number, depth: number) => [
  batch,
  rows,
  heads * depth,
];

/** Of query, key and value. */
export function shapes({ batch, heads, queries, keys, depth, packed }: BenchCase) {
  const shape = (rows: number) =>
    packed ? packedShape(batch, heads, rows, depth) : [batch, heads, rows, depth];
  return [shape(queries), shape(keys), shape(keys)] as const;
}

export function title({ name, batch, heads, queries, keys, depth, packed }: BenchCase): string {
  return `${name}: B${batch} H${heads} S${queries} L${keys.toLocaleString("en")} D${depth}${packed ? ", [batch, rows, heads · depth]" : ""}`;
}
