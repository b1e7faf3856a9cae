// npm test: lints, runs every suite on every runtime, and says what ran where.
//
//   npm test -- --only node,deno    only on these runtimes; "lint" counts as one
//   npm test -- --grep softmax      only outermost suites whose title matches
//   npm test -- transpose matmul    only files whose path contains one of these
//   npm test -- --jobs 1            one runtime at a time
//   npm test -- --whole             every case on every device of every runtime (test/run/runtimes.ts)
//   npm test -- --minutes 60        the time that a runtime may take; 15 otherwise
//   QKV_SEED=7 npm test             with the random inputs of an earlier run

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { gpuEnvironment } from "../../scripts/gpu-environment.mjs";
import type { Outcome } from "./junit.ts";
import { deviceMarker } from "./report.ts";
import { everything, type Runtime, runtimes } from "./runtimes.ts";
import { type Print, runInOrder } from "./schedule.ts";

/** How a job went. Whatever else was wrong stands among the failed tests. */
interface Result extends Outcome {
  title: string;
  /** Every device that was tested on, as `name: description`. */
  devices: Set<string>;
  seconds: number;
}

// This file runs as build/test/run/main.js.
process.chdir(fileURLToPath(new URL("../../../", import.meta.url)));

const names = runtimes.map(({ name }) => name);
const { values: options, positionals: paths } = parseArgs({
  allowPositionals: true,
  options: {
    only: { type: "string" },
    grep: { type: "string" },
    jobs: { type: "string", default: "2" },
    whole: { type: "boolean", default: false },
    minutes: { type: "string", default: "15" },
  },
});
/** Whether the command line leaves tests out. */
const filtered = options.grep !== undefined || paths.length > 0;
const only = options.only?.split(",") ?? (filtered ? names : ["lint", ...names]);
for (const name of only)
  if (name !== "lint" && !names.includes(name))
    fail(`--only takes lint, ${names.join(", ")}; not ${name}`);
const atOnce = Number(options.jobs);
if (!(atOnce >= 1)) fail(`--jobs takes a number from 1 on; not ${options.jobs}`);
const limit = Number(options.minutes) * 60_000;
if (!(limit > 0)) fail(`--minutes takes a number over 0; not ${options.minutes}`);

const seed = process.env["QKV_SEED"] ?? String(Math.floor(Math.random() * 2 ** 31));
const gpu = await gpuEnvironment();
const environment: NodeJS.ProcessEnv = { ...process.env, ...gpu.variables, QKV_SEED: seed };
// The runtimes write to a pipe, and differ in whether that stops them from coloring.
delete environment["FORCE_COLOR"];
delete environment["NO_COLOR"];
environment[process.stdout.isTTY ? "FORCE_COLOR" : "NO_COLOR"] = "1";
console.log(`${gpu.reason}\nSeed: ${seed}`);

const reports = mkdtempSync(join(tmpdir(), "qkv-test-"));
const jobs = runtimes
  .filter(({ name }) => only.includes(name))
  .map((runtime) => (print: Print) => testOn(runtime, print));
if (only.includes("lint")) jobs.unshift(lint);
const results = await runInOrder(jobs, atOnce);
rmSync(reports, { recursive: true });

printTable(results);
const passed = results.reduce((sum, result) => sum + result.passed, 0);
const failed = results.reduce((sum, result) => sum + result.failed.length, 0);
const skipped = results.reduce((sum, result) => sum + result.skipped, 0);
if (failed > 0) console.log(`\nThe same random inputs again: QKV_SEED=${seed} npm test`);
console.log(`\n${passed} passed, ${failed} failed, ${skipped} skipped`);
process.exitCode = failed > 0 || passed === 0 ? 1 : 0;

function fail(message: string): never {
  console.error(message);
  process.exit(2);
}

function lint(print: Print): Promise<Result> {
  return attempt("lint", async (result) => {
    const biome = [process.execPath, "node_modules/@biomejs/biome/bin/biome", "check"];
    const ending = await run(biome, print);
    if (ending === undefined) result.passed = 1;
    else result.failed.push(`ended with ${ending}`);
  });
}

function testOn(runtime: Runtime, print: Print): Promise<Result> {
  return attempt(runtime.name, async (result) => {
    const { title, command, read } = await runtime.find();
    result.title = title;
    print(`\n━━━ ${title}\n`);
    const suites = compiledSuites(runtime.folders).filter(
      (path) => runtime.suites?.test(path) ?? true,
    );
    if (suites.length === 0) return;
    const report = join(reports, runtime.name);
    const { devices, part } = options.whole ? everything : runtime.share;
    // What the suites are told: test/support/random.ts, test/support/devices.ts.
    const settings = {
      QKV_RUNTIME: runtime.name,
      QKV_DEVICES: devices.join(),
      QKV_PART: part,
    };
    const ending = await run(
      command({ suites, grep: options.grep, report }),
      (line) => {
        const marker = line.indexOf(deviceMarker);
        if (marker < 0) print(line);
        else result.devices.add(line.slice(marker + deviceMarker.length).trim());
      },
      settings,
    );
    const reported = existsSync(report);
    if (reported) Object.assign(result, await read(report));
    // Failed tests are reason enough to end badly.
    if (ending !== undefined && result.failed.length === 0)
      if (reported && runtime.crashesAtExit && /^SIG(ABRT|SEGV)$/.test(ending))
        print(`${title} crashed (${ending}), but after its last test.`);
      else result.failed.push(`ended with ${ending}`);
    if (filtered) return;
    if (result.passed === 0) result.failed.push("no test passed");
    for (const name of devices)
      if (![...result.devices].some((device) => device.startsWith(`${name}: `)))
        result.failed.push(`no test used the device ${name}`);
  });
}

/** The compiled test files of these folders of test/ that the command line asks for. */
function compiledSuites(folders: readonly string[]): string[] {
  return folders
    .flatMap((folder) => readdirSync(join("test", folder)).map((file) => join(folder, file)))
    .filter((file) => file.endsWith(".test.ts"))
    .filter((file) => paths.length === 0 || paths.some((path) => file.includes(path)))
    .map((file) => join(process.cwd(), "build/test", file.replace(/ts$/, "js")));
}

/** Does `work`, and takes down how it went. */
async function attempt(title: string, work: (result: Result) => Promise<void>): Promise<Result> {
  const start = performance.now();
  const outcome: Outcome = { passed: 0, skipped: 0, failed: [] };
  const result: Result = { title, devices: new Set(), seconds: 0, ...outcome };
  try {
    await work(result);
  } catch (error) {
    result.failed.push(error instanceof Error ? error.message : String(error));
  }
  result.seconds = (performance.now() - start) / 1000;
  return result;
}

/** Runs a command, and prints its lines. Returns the status or signal that it ended badly with. */
async function run(
  [file = "", ...args]: string[],
  print: Print,
  settings: NodeJS.ProcessEnv = {},
): Promise<string | undefined> {
  const child = spawn(file, args, {
    env: { ...environment, ...settings },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: limit,
  });
  for (const input of [child.stdout, child.stderr]) createInterface({ input }).on("line", print);
  const [status, signal] = await once(child, "close");
  return status === 0 ? undefined : (signal ?? `status ${status}`);
}

function printTable(rows: readonly Result[]): void {
  const width = Math.max(...rows.map(({ title }) => title.length));
  console.log(`\n${"".padEnd(width)}   passed   failed  skipped     time   devices`);
  for (const { title, passed, failed, skipped, seconds, devices } of rows) {
    const counts = [passed, failed.length, skipped].map((count) => String(count).padStart(9));
    const time = `${seconds.toFixed(1)} s`.padStart(9);
    const [first = "", ...others] = [...devices].sort();
    console.log(`${title.padEnd(width)}${counts.join("")}${time}   ${first}`.trimEnd());
    for (const device of others) console.log(`${"".padEnd(width + 39)}${device}`);
    for (const failure of failed) console.log(`  ✖ ${failure}`);
  }
}
