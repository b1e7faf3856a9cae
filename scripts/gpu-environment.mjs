// Which GPU our processes use: the machine's own, or SwiftShader in software where it has none.

import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { libraryPath, supported, swiftshader } from "./chromium.mjs";

/**
 * @typedef {object} GPUEnvironment
 * @property {"hardware" | "software" | "none"} kind
 * @property {Record<string, string>} variables What a process must have in its environment when it
 *   starts: the dynamic linker reads LD_LIBRARY_PATH then and never again.
 * @property {string} reason One sentence that says which GPU this is, and why.
 */

/** The variables that make the Vulkan loader, and so Dawn and Deno, use SwiftShader. */
export async function softwareVariables() {
  const folder = await swiftshader();
  const driver = join(folder, "vk_swiftshader_icd.json");
  // Loaders before Vulkan 1.3.207 read the second name.
  return { VK_DRIVER_FILES: driver, VK_ICD_FILENAMES: driver, ...libraryPath(folder) };
}

/**
 * The environment for processes that use a GPU. `QKV_GPU=software` or `QKV_GPU=hardware` decides;
 * else hardware goes first.
 *
 * @returns {Promise<GPUEnvironment>}
 */
export async function gpuEnvironment() {
  const wanted = process.env["QKV_GPU"];
  if (wanted !== undefined && wanted !== "software" && wanted !== "hardware")
    throw new Error(`QKV_GPU must be "software" or "hardware", not ${JSON.stringify(wanted)}.`);
  if (wanted === "software")
    return {
      kind: "software",
      variables: await softwareVariables(),
      reason: "Software GPU (SwiftShader), because QKV_GPU=software asks for it.",
    };
  const adapter = hardwareAdapter();
  if (adapter.found) return { kind: "hardware", variables: {}, reason: `GPU: ${adapter.name}.` };
  if (wanted === "hardware") throw new Error(`QKV_GPU=hardware, but ${adapter.name}.`);
  if (!supported)
    return {
      kind: "none",
      variables: {},
      reason: `No GPU: ${adapter.name}, and the software GPU is for Linux on x64.`,
    };
  return {
    kind: "software",
    variables: await softwareVariables(),
    reason: `Software GPU (SwiftShader), because ${adapter.name}.`,
  };
}

const askForAdapter = `
  import { create } from "webgpu";
  const gpu = create([]);
  const adapter = await gpu.requestAdapter();
  const { vendor, architecture, device, description, isFallbackAdapter } = adapter?.info ?? {};
  const name = [vendor, architecture, device, description].filter(Boolean).join(" ");
  console.log(JSON.stringify({ found: adapter !== null && !isFallbackAdapter, name }));
`;

/**
 * Asks Dawn for an adapter that is not a software one. It asks in a process of its own: a broken
 * driver may take the process down.
 *
 * @returns {{ found: boolean, name: string }} With the adapter's name, or what is wrong.
 */
function hardwareAdapter() {
  const { status, signal, stdout } = spawnSync(
    process.execPath,
    ["--input-type=module", "--eval", askForAdapter],
    // Here, and not where the user is, the package `webgpu` is found.
    { cwd: import.meta.dirname, encoding: "utf8", timeout: 30_000 },
  );
  if (status !== 0)
    return { found: false, name: `Dawn could not be asked for an adapter (${signal ?? status})` };
  const { found, name } = JSON.parse(stdout);
  if (found) return { found, name };
  return { found, name: name ? `the only adapter is ${name}` : "no adapter was found" };
}
