// Compiles src/wasm (AssemblyScript) and writes it, as base64, into src/devices/cpu/modules.generated.ts:
// a module that any bundler takes and that has no asset to find at run time. Does nothing if that file is
// newer than every source.

import { readdir, rename, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const sources = join(root, "src/wasm");
const target = join(root, "src/devices/cpu/modules.generated.ts");

/** The builds, by name, with the features of WebAssembly that each may use. */
const builds = { simd: ["simd", "threads"], relaxed: ["simd", "threads", "relaxed-simd"] };

/** @param {string} path */
async function changed(path) {
  try {
    return (await stat(path)).mtimeMs;
  } catch {
    return 0;
  }
}

/** @param {readonly string[]} features */
async function compile(features) {
  const { default: asc } = await import("assemblyscript/asc");
  /** @type {Uint8Array | undefined} */
  let binary;
  const { error, stderr } = await asc.main(
    [
      ...["index.ts", "--outFile", "module.wasm", "--baseDir", sources],
      // The stub runtime never frees, and the kernels never allocate.
      ...["-O3", "--runtime", "stub", "--noAssert", "--use", "abort="],
      // The most that the memory given may have; one that is not shared fits too, see below.
      ...[
        "--importMemory",
        "--sharedMemory",
        "--initialMemory",
        "1",
        "--memoryBase",
        "1024",
        "--maximumMemory",
        "65536",
      ],
      ...features.flatMap((feature) => ["--enable", feature]),
    ],
    {
      writeFile(name, contents) {
        if (name === "module.wasm" && typeof contents !== "string") binary = contents;
      },
    },
  );
  if (error || !binary) throw new Error(`AssemblyScript: ${error?.message}\n${stderr.toString()}`);
  return binary;
}

/**
 * Where the import of the memory says that it is shared: the one byte in which a module for one thread
 * differs from a module for several.
 *
 * @param {Uint8Array} binary
 */
function sharedFlagAt(binary) {
  const name = [3, ...Buffer.from("env"), 6, ...Buffer.from("memory"), 2];
  const at = Buffer.from(binary).indexOf(Buffer.from(name)) + name.length;
  if (at < name.length || binary[at] !== 3) throw new Error("the module imports no shared memory");
  return at;
}

export async function buildWasm() {
  const files = (await readdir(sources, { recursive: true })).map((name) => join(sources, name));
  const times = await Promise.all([...files, fileURLToPath(import.meta.url)].map(changed));
  if ((await changed(target)) > Math.max(...times)) return;
  let text =
    "// Written by scripts/build-wasm.mjs from src/wasm. `sharedFlag`: the byte that says whether the memory\n" +
    "// is shared; 3 in the module, 1 where it is not.\n\n" +
    "interface Module {\n  readonly sharedFlag: number;\n  readonly base64: string;\n}\n";
  for (const [name, features] of Object.entries(builds)) {
    const binary = await compile(features);
    const base64 = Buffer.from(binary).toString("base64");
    text += `\nexport const ${name}: Module = {\n  sharedFlag: ${sharedFlagAt(binary)},\n  base64:\n    "${base64}",\n};\n`;
  }
  // Another build may be reading it, or writing it too.
  const written = `${target}.${process.pid}`;
  await writeFile(written, text);
  await rename(written, target);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await buildWasm();
