/**
 * Transpose of the last two axes through workgroup memory.
 *
 * A workgroup of 32 × 8 lanes owns one 32 × 32 tile: it reads the tile row by row and writes it column
 * by column, so that neighbouring lanes touch neighbouring addresses both times. A row of the tile takes
 * 33 words, which puts the 32 elements of a column in 32 different banks.
 *
 * A workgroup takes one tile after another: enough of them fill a large GPU, and a software adapter pays
 * dearly for each that has a barrier.
 *
 * Workgroup memory: 4,224 bytes. Grid: at most `mostWorkgroups`, each beginning with the tile of its number.
 * Runs on every adapter.
 */
export const tileSize = 32;

/** 132 multiprocessors hold 1,056 workgroups of 256 lanes. */
export const mostWorkgroups = 1024;

/** Workgroup memory that the module declares. */
export const tileBytes = tileSize * (tileSize + 1) * 4;

export const transposeWGSL = /* wgsl */ `
const tileSize = ${tileSize}u;
const laneRows = 8u;

struct Uniforms {
  rows: u32,
  columns: u32,
  tilesAcross: u32,      // tiles along the columns
  tilesPerMatrix: u32,
  tiles: u32,
}

@group(0) @binding(0) var<storage, read> input: array<f32>;         // [batch, rows, columns]
@group(0) @binding(1) var<storage, read_write> output: array<f32>;  // [batch, columns, rows]
@group(0) @binding(2) var<uniform> uniforms: Uniforms;

var<workgroup> tile: array<f32, tileSize * (tileSize + 1u)>;

@compute @workgroup_size(tileSize, laneRows)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_id) lane: vec3<u32>,
) {
  for (var index = workgroup.x; index < uniforms.tiles; index += workgroups.x) {
    transpose_tile(index, lane.xy);
    workgroupBarrier();  // the tile is read before the next overwrites it
  }
}

fn transpose_tile(index: u32, lane: vec2<u32>) {
  let matrix = index / uniforms.tilesPerMatrix;
  let withinMatrix = index % uniforms.tilesPerMatrix;
  let firstRow = withinMatrix / uniforms.tilesAcross * tileSize;
  let firstColumn = withinMatrix % uniforms.tilesAcross * tileSize;
  let start = matrix * uniforms.rows * uniforms.columns;

  let column = firstColumn + lane.x;
  for (var y = lane.y; y < tileSize; y += laneRows) {
    let row = firstRow + y;
    if (row < uniforms.rows && column < uniforms.columns) {
      tile[y * (tileSize + 1u) + lane.x] = input[start + row * uniforms.columns + column];
    }
  }

  workgroupBarrier();

  let outputColumn = firstRow + lane.x;
  for (var y = lane.y; y < tileSize; y += laneRows) {
    let outputRow = firstColumn + y;
    if (outputRow < uniforms.columns && outputColumn < uniforms.rows) {
      output[start + outputRow * uniforms.rows + outputColumn] = tile[lane.x * (tileSize + 1u) + y];
    }
  }
}
`;
