import type { Devices } from "../device/devices.ts";
import { wgslConstants } from "../device/wgsl-constants.ts";
import type { Inputs } from "../steps/presets.ts";
import { runGraph } from "../steps/run-steps.ts";
import type { TileShape } from "./online-softmax.ts";

/** The tile that the device's own plan uses, and the variant's name. */
export interface PlannedTile {
  readonly tile: TileShape;
  readonly variant: string;
}

/** Loads the attention of `inputs` and reads the tile off the kernel that the plan chose. */
export async function plannedTile(
  devices: Devices,
  inputs: Inputs,
): Promise<PlannedTile | undefined> {
  const { steps } = await runGraph(devices, inputs, "fused");
  const step = steps.find(({ kernel }) => kernel !== "view")!;
  const constants = wgslConstants(step.wgsl ?? "");
  const [rows, keys] = [constants.get("TILE_ROWS"), constants.get("TILE_KEYS")];
  if (rows === undefined || keys === undefined) return undefined;
  return { tile: { rows, keys }, variant: step.variant ?? step.kernel };
}
