/**
 * Tiled matrix product C = A·B.
 *
 * A workgroup owns `tileRows` × `tileColumns` outputs. It walks the inner axis in steps of `tileInner`,
 * bringing a tile of A (transposed, so that lanes of one column read along it) and a tile of B into
 * workgroup memory; a lane holds `laneRows` × 4 outputs in registers, one vec4 a row, so that each
 * value read from workgroup memory serves several multiply-adds.
 *
 * A product with one row has too few outputs to fill a workgroup: there `slices` lanes share a vec4 of
 * outputs, each taking every `slices`-th step of the inner axis, and their sums meet in workgroup memory.
 *
 * Workgroup memory: the two tiles, plus 16 bytes a lane with slices. Grid: one workgroup a tile of C,
 * matrix by matrix, folded over x and y. Runs on every adapter.
 */
export interface MatmulTiles {
  readonly tileRows: number;
  readonly tileColumns: number;
  readonly tileInner: number;
  readonly laneRows: number;
  /** More than 1 only with `laneRows` 1. */
  readonly slices: number;
}

/** Outputs of a lane in one row: a vec4. */
const laneColumns = 4;

/** Lanes that share one slice of the inner axis. */
const lanesPerSlice = ({ tileRows, tileColumns, laneRows }: MatmulTiles) =>
  (tileRows / laneRows) * (tileColumns / laneColumns);

/** Workgroup memory that the module declares. */
export const matmulBytes = (tiles: MatmulTiles): number =>
  4 * tiles.tileInner * (tiles.tileRows + 1 + tiles.tileColumns) +
  (tiles.slices > 1 ? 16 * tiles.slices * lanesPerSlice(tiles) : 0);

const sliceSum = /* wgsl */ `
  partials[lane] = sum0;
  workgroupBarrier();
  if (slice != 0u) {
    return;
  }
  for (var other = 1u; other < slices; other++) {
    sum0 += partials[other * lanesPerSlice + withinSlice];
  }
`;

export function matmulWGSL(tiles: MatmulTiles): string {
  const rows = Array.from({ length: tiles.laneRows }, (_, row) => row);
  const sliced = tiles.slices > 1;
  return /* wgsl */ `
const tileRows = ${tiles.tileRows}u;
const tileColumns = ${tiles.tileColumns}u;
const tileInner = ${tiles.tileInner}u;
const laneRows = ${tiles.laneRows}u;
const laneColumns = ${laneColumns}u;
const slices = ${tiles.slices}u;
const lanesAcross = tileColumns / laneColumns;
const lanesPerSlice = tileRows / laneRows * lanesAcross;
const lanes = lanesPerSlice * slices;
const aStride = tileRows + 1u;  // odd: a column of A's tile lies in different banks

struct Uniforms {
  rows: u32,
  columns: u32,
  inner: u32,
  tilesAcross: u32,      // tiles along the columns of C
  tilesPerMatrix: u32,
  tiles: u32,
  gridWidth: u32,
}

@group(0) @binding(0) var<storage, read> a: array<f32>;             // [batch, rows, inner]
@group(0) @binding(1) var<storage, read> b: array<f32>;             // [batch, inner, columns]
@group(0) @binding(2) var<storage, read_write> output: array<f32>;  // [batch, rows, columns]
@group(0) @binding(3) var<uniform> uniforms: Uniforms;

var<workgroup> aTile: array<f32, tileInner * aStride>;      // [inner, row]
var<workgroup> bTile: array<f32, tileInner * tileColumns>;  // [inner, column]
${sliced ? "var<workgroup> partials: array<vec4<f32>, lanes>;" : ""}

fn store(row: u32, column: u32, start: u32, values: vec4<f32>) {
  if (row >= uniforms.rows) {
    return;
  }
  let at = start + row * uniforms.columns + column;
  if (column < uniforms.columns) { output[at] = values.x; }
  if (column + 1u < uniforms.columns) { output[at + 1u] = values.y; }
  if (column + 2u < uniforms.columns) { output[at + 2u] = values.z; }
  if (column + 3u < uniforms.columns) { output[at + 3u] = values.w; }
}

@compute @workgroup_size(lanes)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = workgroup.y * uniforms.gridWidth + workgroup.x;
  if (index >= uniforms.tiles) {
    return;
  }
  let matrix = index / uniforms.tilesPerMatrix;
  let withinMatrix = index % uniforms.tilesPerMatrix;
  let firstRow = withinMatrix / uniforms.tilesAcross * tileRows;
  let firstColumn = withinMatrix % uniforms.tilesAcross * tileColumns;
  let aStart = matrix * uniforms.rows * uniforms.inner;
  let bStart = matrix * uniforms.inner * uniforms.columns;

  let slice = lane / lanesPerSlice;
  let withinSlice = lane % lanesPerSlice;
  let laneRow = withinSlice / lanesAcross * laneRows;
  let laneColumn = withinSlice % lanesAcross * laneColumns;
${rows.map((row) => `  var sum${row} = vec4<f32>();`).join("\n")}

  for (var first = 0u; first < uniforms.inner; first += tileInner) {
    for (var i = lane; i < tileRows * tileInner; i += lanes) {
      let row = firstRow + i / tileInner;
      let inner = first + i % tileInner;
      var value = 0.0;
      if (row < uniforms.rows && inner < uniforms.inner) {
        value = a[aStart + row * uniforms.inner + inner];
      }
      aTile[i % tileInner * aStride + i / tileInner] = value;
    }
    for (var i = lane; i < tileInner * tileColumns; i += lanes) {
      let inner = first + i / tileColumns;
      let column = firstColumn + i % tileColumns;
      var value = 0.0;
      if (inner < uniforms.inner && column < uniforms.columns) {
        value = b[bStart + inner * uniforms.columns + column];
      }
      bTile[i] = value;
    }
    workgroupBarrier();

    for (var inner = slice; inner < tileInner; inner += slices) {
      let at = inner * tileColumns + laneColumn;
      let row = vec4<f32>(bTile[at], bTile[at + 1u], bTile[at + 2u], bTile[at + 3u]);
${rows.map((row) => `      sum${row} += aTile[inner * aStride + laneRow + ${row}u] * row;`).join("\n")}
    }
    workgroupBarrier();
  }
${sliced ? sliceSum : ""}
  let start = matrix * uniforms.rows * uniforms.columns;
${rows.map((row) => `  store(firstRow + laneRow + ${row}u, firstColumn + laneColumn, start, sum${row});`).join("\n")}
}
`;
}
