// A headless Chromium and a software GPU, SwiftShader, without root: both lie compressed in the
// development dependency @sparticuz/chromium, for Linux on x64.

import { spawnSync } from "node:child_process";
import { createReadStream, createWriteStream, readFileSync } from "node:fs";
import { chmod } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { createBrotliDecompress } from "node:zlib";
import { extract } from "tar-fs";
import { cached } from "./cache.mjs";

/** Whether the package's binaries run here. */
export const supported = process.platform === "linux" && process.arch === "x64";

const root = join(dirname(createRequire(import.meta.url).resolve("@sparticuz/chromium")), "../..");
/** @type {string} */
const version = JSON.parse(readFileSync(join(root, "package.json"), "utf8")).version;

/**
 * @param {string} archive
 * @param {string} folder
 * @param {(path: string) => boolean} [ignore]
 */
function unpackTar(archive, folder, ignore = () => false) {
  // Whoever unpacks owns the files, root too: the owners in the archive mean nothing here.
  const options = { ignore, chown: false };
  return pipeline(
    createReadStream(join(root, "bin", archive)),
    createBrotliDecompress(),
    extract(folder, options),
  );
}

/** The folder of SwiftShader's Vulkan driver and a Vulkan loader, with nothing else beside them. */
export function swiftshader() {
  // libEGL and libGLESv2 are Chromium's: on a library path they would hide the system's own.
  return cached(`swiftshader-${version}`, (folder) =>
    unpackTar("swiftshader.tar.br", folder, (path) => /lib(EGL|GLES)/.test(path)),
  );
}

/** The folder of Chromium with its graphics libraries. */
function browser() {
  return cached(`chromium-${version}`, async (folder) => {
    const executable = join(folder, "chromium");
    await pipeline(
      createReadStream(join(root, "bin/chromium.br")),
      createBrotliDecompress(),
      createWriteStream(executable),
    );
    await chmod(executable, 0o755);
    await unpackTar("swiftshader.tar.br", folder);
  });
}

/** The folder of the libraries that Chromium takes from the system: NSS, NSPR and Expat. */
async function systemLibraries() {
  const folder = await cached(`chromium-libraries-${version}`, (folder) =>
    unpackTar("al2023.tar.br", folder),
  );
  return join(folder, "lib");
}

/** The Chromium to start, and the environment it needs. */
export async function chromium() {
  if (!supported) throw new Error("The Chromium of @sparticuz/chromium is for Linux on x64.");
  const executable = join(await browser(), "chromium");
  const environment = { ...process.env };
  const start = () => spawnSync(executable, ["--version"], { env: environment, encoding: "utf8" });
  let { status, stdout, stderr } = start();
  if (status !== 0) {
    // The dynamic linker missed a library.
    Object.assign(environment, libraryPath(await systemLibraries()));
    ({ status, stdout, stderr } = start());
  }
  if (status !== 0) throw new Error(`Chromium does not start: ${stderr}`);
  return { executable, environment, version: stdout.trim() };
}

/**
 * The variable that puts `folder` first on this process's library path.
 *
 * @param {string} folder
 */
export function libraryPath(folder) {
  const { LD_LIBRARY_PATH } = process.env;
  return { LD_LIBRARY_PATH: LD_LIBRARY_PATH ? `${folder}:${LD_LIBRARY_PATH}` : folder };
}
