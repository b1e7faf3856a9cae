// How suites tell their runner what they ran on; on every runtime, so no node: imports here.

/** What a line that reports a device starts with. */
export const deviceMarker = "[qkv device]";

/**
 * Tells the runner that this process tests on a device. A runtime on which one that it is to test on is
 * never reported fails.
 */
export function reportDevice(name: string, description: string): void {
  console.log(`${deviceMarker} ${name}: ${description}`);
}
