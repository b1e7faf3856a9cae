/**
 * Softmax over rows, with the maximum subtracted.
 *
 * `lanesPerRow` lanes own a row; a workgroup of 256 lanes holds 256 / lanesPerRow rows. Each lane walks
 * its row once for a maximum and a sum relative to it, kept together ("online": M. Milakov,
 * N. Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867); the lanes' pairs are
 * merged in parallel; a second walk writes. A row of −∞ has sum 0 and gives zeros.
 *
 * Portable: pairs are merged as a tree through 2,048 bytes of workgroup memory.
 * Subgroups: one row a workgroup; each subgroup merges in registers, its first lane leaves the pair in
 * workgroup memory, and every subgroup merges those again. A lane's slot is its own index, and all
 * 256 are read, so nothing is assumed of how lanes are grouped or of how many a subgroup has.
 *
 * In place, one binding serves as input and output: a buffer cannot be bound for both.
 * Grid: one workgroup for each 256 / lanesPerRow rows, folded over x and y.
 */
export interface SoftmaxVariant {
  readonly inPlace: boolean;
  readonly subgroups: boolean;
}

/** Lanes of a workgroup. */
export const lanes = 256;

/** Workgroup memory that the module declares. */
export const workgroupBytes = 2 * lanes * 4;

const treeMerge = /* wgsl */ `
  maxima[index] = maximum;
  sums[index] = sum;
  for (var stride = lanesPerRow / 2u; stride > 0u; stride /= 2u) {
    workgroupBarrier();
    if (lane < stride) {
      let merged = merge(Pair(maxima[index], sums[index]), Pair(maxima[index + stride], sums[index + stride]));
      maxima[index] = merged.maximum;
      sums[index] = merged.sum;
    }
  }
  workgroupBarrier();
  maximum = maxima[index - lane];
  sum = sums[index - lane];
`;

const subgroupMerge = /* wgsl */ `
  let subgroupMaximum = subgroupMax(maximum);
  let subgroupSum = subgroupAdd(sum * exp(maximum - subgroupMaximum));
  let first = subgroupElect();
  maxima[index] = select(lowest, subgroupMaximum, first);
  sums[index] = select(0.0, subgroupSum, first);
  workgroupBarrier();
  maximum = lowest;
  sum = 0.0;
  for (var slot = subgroupLane; slot < lanes; slot += subgroupSize) {
    let merged = merge(Pair(maximum, sum), Pair(maxima[slot], sums[slot]));
    maximum = merged.maximum;
    sum = merged.sum;
  }
  let rowMaximum = subgroupMax(maximum);
  sum = subgroupAdd(sum * exp(maximum - rowMaximum));
  maximum = rowMaximum;
`;

const separate = /* wgsl */ `
@group(0) @binding(0) var<storage, read> input: array<f32>;         // [rows, columns]
@group(0) @binding(1) var<storage, read_write> output: array<f32>;  // [rows, columns]
@group(0) @binding(2) var<uniform> uniforms: Uniforms;
`;

const inPlace = /* wgsl */ `
@group(0) @binding(0) var<storage, read_write> output: array<f32>;  // [rows, columns]
@group(0) @binding(1) var<uniform> uniforms: Uniforms;
`;

export const softmaxWGSL = (variant: SoftmaxVariant): string => /* wgsl */ `
${variant.subgroups ? "enable subgroups;" : ""}
const lanes = ${lanes}u;
const lowest = -3.4028234e38;  // stands for −∞, which WGSL cannot spell

struct Uniforms {
  rows: u32,
  columns: u32,
  lanesPerRow: u32,  // a power of two up to 256; 256 with subgroups
  gridWidth: u32,
}
${variant.inPlace ? inPlace : separate}
var<workgroup> maxima: array<f32, lanes>;
var<workgroup> sums: array<f32, lanes>;

struct Pair {
  maximum: f32,
  sum: f32,  // of exp(x − maximum)
}

fn merge(a: Pair, b: Pair) -> Pair {
  let maximum = max(a.maximum, b.maximum);
  return Pair(maximum, a.sum * exp(a.maximum - maximum) + b.sum * exp(b.maximum - maximum));
}

// By its bits: of exp(NaN) WGSL promises nothing.
fn isNaN(x: f32) -> bool {
  return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

@compute @workgroup_size(lanes)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(local_invocation_index) index: u32,${
    variant.subgroups
      ? `
  @builtin(subgroup_invocation_id) subgroupLane: u32,
  @builtin(subgroup_size) subgroupSize: u32,`
      : ""
  }
) {
  let lanesPerRow = uniforms.lanesPerRow;
  let lane = index % lanesPerRow;
  let row = (workgroup.y * uniforms.gridWidth + workgroup.x) * (lanes / lanesPerRow) + index / lanesPerRow;
  let start = row * uniforms.columns;
  // Lanes past the last row walk nothing, but take part in the barriers.
  let columns = select(0u, uniforms.columns, row < uniforms.rows);

  var maximum = lowest;
  var sum = 0.0;
  for (var column = lane; column < columns; column += lanesPerRow) {
    let x = ${variant.inPlace ? "output" : "input"}[start + column];
    let higher = select(maximum, x, x > maximum);  // a NaN is not higher; it turns the sum to NaN
    sum = select(sum * exp(maximum - higher) + exp(x - higher), x, isNaN(x));
    maximum = higher;
  }
${variant.subgroups ? subgroupMerge : treeMerge}
  for (var column = lane; column < columns; column += lanesPerRow) {
    let x = ${variant.inPlace ? "output" : "input"}[start + column];
    output[start + column] = select(exp(x - maximum) / sum, 0.0, sum == 0.0);
  }
}
`;
