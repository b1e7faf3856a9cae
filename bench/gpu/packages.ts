import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

// Peers are no dependencies: they are taken from where Node finds them, else from
// bench/gpu/node_modules, and their types are not there when this is compiled.

const folder = resolve("bench/gpu");
const places = [createRequire(import.meta.url), createRequire(join(folder, "package.json"))];

/** How to load it, where it is to be found. */
const find = (name: string): NodeJS.Require | undefined =>
  places.find((place) => {
    try {
      place.resolve(name);
      return true;
    } catch {
      return false;
    }
  });

export function requirePackage(name: string): unknown {
  return (find(name) ?? places[0]!)(name);
}

/** The version that `requirePackage` takes, out of the package's own description. */
export function versionOf(name: string): string {
  const paths = find(name)?.resolve.paths(name) ?? [];
  const file = paths
    .map((path) => join(path, name, "package.json"))
    .find((path) => existsSync(path));
  return file ? (places[0]!(file) as { version: string }).version : "";
}

/** Installs those that are not found, where that can be done, and returns those still missing. */
export function missingPackages(names: readonly string[], log: (line: string) => void): string[] {
  const missing = names.filter((name) => !find(name));
  if (missing.length === 0 || !existsSync(join(folder, "package.json"))) return missing;
  log(`${missing.join(", ")}: installing into bench/gpu/node_modules`);
  const options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"];
  const npm = spawnSync("npm", ["install", ...options, "--fetch-retries=0"], {
    cwd: folder,
    stdio: ["ignore", "ignore", "inherit"],
    timeout: 300_000, // without a network it may wait
    shell: process.platform === "win32", // where npm is a script
  });
  if (npm.status !== 0) log(`npm install: ${npm.error?.message ?? `ended with ${npm.status}`}`);
  // Node remembers that it did not find them; the children, which load them, will look anew.
  return missing.filter((name) => !existsSync(join(folder, "node_modules", name)));
}
