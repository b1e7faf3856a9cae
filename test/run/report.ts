// How suites tell their runner what they ran on; on every runtime, so no node: imports here.

/** What a line that reports a device starts with. */
export const deviceMarker = "[qkv device]";

/**
 * Tells the runner that this process tests on a device. A runtime on which an expected kind of
 * device is never reported fails.
 */
export function reportDevice(kind: "cpu" | "webgpu", description: string): void {
  console.log(`${deviceMarker} ${kind}: ${description}`);
}
