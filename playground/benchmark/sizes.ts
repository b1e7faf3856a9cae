/** An attention to time: float32, one batch, as many key/value heads as query heads. */
export interface BenchmarkSize {
  readonly name: string;
  readonly heads: number;
  readonly queries: number;
  readonly keys: number;
  readonly depth: number;
}

const size = (name: string, heads: number, queries: number, keys: number): BenchmarkSize => ({
  name,
  heads,
  queries,
  keys,
  depth: 64,
});

/** The sets to choose from. */
export const sizeSets = {
  small: [
    size("decode 256", 4, 1, 256),
    size("decode 1,024", 4, 1, 1024),
    size("encode 64", 4, 64, 64),
    size("encode 128", 4, 128, 128),
  ],
  medium: [
    size("decode 1,024", 8, 1, 1024),
    size("decode 4,096", 8, 1, 4096),
    size("encode 128", 8, 128, 128),
    size("encode 512", 8, 512, 512),
  ],
  large: [
    size("decode 4,096", 16, 1, 4096),
    size("decode 32,768", 16, 1, 32768),
    size("encode 512", 16, 512, 512),
    size("encode 2,048", 16, 2048, 2048),
  ],
} as const satisfies Record<string, readonly BenchmarkSize[]>;

export type SizeSet = keyof typeof sizeSets;

/** Multiplications and additions of the two products. */
export const flopsOf = ({ heads, queries, keys, depth }: BenchmarkSize): number =>
  4 * heads * queries * keys * depth;

/** Bytes that any algorithm moves: Q, K and V in, the output out. */
export const bytesOf = ({ heads, queries, keys, depth }: BenchmarkSize): number =>
  4 * heads * depth * (2 * queries + 2 * keys);
