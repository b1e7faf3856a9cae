import { type Browser, chromium } from "playwright-core";
import { chromium as unpackChromium } from "../../scripts/chromium.mjs";

/** Starts a headless Chromium whose pages have WebGPU, in software (SwiftShader). */
export async function launchBrowser(): Promise<Browser> {
  const { executable, environment } = await unpackChromium();
  return chromium.launch({
    executablePath: executable,
    env: environment,
    args: [
      "--enable-unsafe-webgpu",
      "--use-webgpu-adapter=swiftshader",
      // Containers rarely let a process make sandboxes; the pages are our own.
      "--no-sandbox",
      // Nothing here is to reach out to the network.
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-quic",
      "--disable-sync",
      "--no-first-run",
    ],
  });
}
