// npm run build                     dist/: what users get, the library and the command line
// node scripts/build.mjs --tests    that, and build/: everything file by file, for tests

import { spawnSync } from "node:child_process";
import { chmod, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { build } from "esbuild";
import { buildWasm } from "./build-wasm.mjs";

process.chdir(fileURLToPath(new URL("..", import.meta.url)));

/** @param {string[]} options */
function compile(...options) {
  const tsc = fileURLToPath(import.meta.resolve("typescript/package.json"));
  const { status } = spawnSync(process.execPath, [join(tsc, "../bin/tsc"), ...options], {
    stdio: "inherit",
  });
  if (status !== 0) process.exit(1);
}

/** Bundles cli/ and the packages that it uses into dist/cli.js; the library stays beside it. */
async function bundleCommandLine() {
  const { metafile } = await build({
    entryPoints: ["cli/main.ts"],
    outfile: "dist/cli.js",
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20.19",
    sourcemap: true,
    metafile: true,
    banner: {
      js: [
        "#!/usr/bin/env node",
        // The packages inside may be CommonJS, and require Node's own modules.
        'import { createRequire as createRequireInBundle } from "node:module";',
        "const require = createRequireInBundle(import.meta.url);",
      ].join("\n"),
    },
    external: ["webgpu", "bun-webgpu"],
    plugins: [
      {
        name: "library",
        setup({ onResolve }) {
          onResolve({ filter: /^\.\.?\// }, ({ path, resolveDir }) => {
            const file = relative("src", join(resolveDir, path));
            if (file.startsWith("..")) return undefined;
            return { path: `./${file.replace(/\.ts$/, ".js")}`, external: true };
          });
        },
      },
    ],
  });
  await chmod("dist/cli.js", 0o755);
  await writeFile("dist/cli.js.LEGAL.txt", await licenses(Object.keys(metafile.inputs)));
}

/**
 * The licenses of the packages that `files` belong to.
 *
 * @param {string[]} files
 */
async function licenses(files) {
  const packages = files.map((file) => /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(file)?.[1]);
  const texts = [...new Set(packages)].map(async (name) =>
    name === undefined
      ? ""
      : `${name}:\n\n${await readFile(join("node_modules", name, "LICENSE"), "utf8")}`,
  );
  return `Bundled license information:\n\n${(await Promise.all(texts)).join("")}`;
}

const { tests } = parseArgs({ options: { tests: { type: "boolean" } } }).values;
const start = Date.now();
await buildWasm();
compile("-p", "tsconfig.build.json");
await bundleCommandLine();
// What was not written just now belongs to a source that is gone. The folder is not emptied
// beforehand: someone may be running from it.
for (const entry of await readdir("dist", { recursive: true, withFileTypes: true })) {
  const path = join(entry.parentPath, entry.name);
  if (entry.isFile() && (await stat(path)).mtimeMs < start) await rm(path);
}
if (tests) compile("-p", "tsconfig.json");
