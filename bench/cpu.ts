// npm run bench:cpu: attention on the CPU, side by side with what else JavaScript has.
//
//   --only PATTERN     cases whose name matches
//   --subjects A,B     only these
//   --threads 1,2      numbers of threads
//   --seconds 1        for each figure (and as long to warm up)
//   --out FOLDER       where cpu.md and cpu.json go. Default: build/results
//
// Medians. qkv's tensors lie on its device, and a call is timed. Peers are timed by a chain of ops on
// constant keys and values, (t(n) − t(1)) / (n − 1), so that their copies of inputs do not count. Each
// subject runs in a process of its own. For jax-js, run it with Node 24.

import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { type BenchCase, bytes, cases, flops, title } from "./cpu/cases.ts";
import { type MachineFigures, measureMachine } from "./cpu/machine.ts";
import { type Line, runSubject, subjects } from "./cpu/subjects.ts";
import type { Timing } from "./cpu/timing.ts";

const { values } = parseArgs({
  options: {
    only: { type: "string", default: "" },
    subjects: { type: "string", default: Object.keys(subjects).join() },
    threads: { type: "string", default: "1,2" },
    seconds: { type: "string", default: "1" },
    out: { type: "string", default: "build/results" },
    child: { type: "string" },
  },
});

const seconds = Number(values.seconds);
const only = new RegExp(values.only);
const peers = resolve("bench/cpu");

/** A subject with a number of threads, and what came of it. */
interface Column {
  readonly subject: string;
  readonly threads: number;
  version?: string;
  unavailable?: string;
  readonly timings: Record<string, Timing>;
  readonly errors: Record<string, string>;
}

async function runColumn(subject: string, threads: number): Promise<Column> {
  const column: Column = { subject, threads, timings: {}, errors: {} };
  const unavailable = subjects[subject]!.unavailable?.(threads);
  if (unavailable) return { ...column, unavailable };
  const child = spawn(
    process.execPath,
    [
      fileURLToPath(import.meta.url),
      ...["--child", `${subject},${threads}`, "--seconds", values.seconds, "--only", values.only],
    ],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  let errors = "";
  child.stderr.on("data", (data) => {
    errors += data;
  });
  for await (const text of createInterface(child.stdout)) {
    if (!text.startsWith("{")) continue;
    const line = JSON.parse(text) as Line;
    if ("version" in line) column.version = line.version;
    else if (line.timing) {
      column.timings[line.case] = line.timing;
      console.error(`${subject}, ${threads}: ${line.case} ${line.timing.median.toFixed(3)} ms`);
    } else column.errors[line.case] = line.error!;
  }
  if (column.version === undefined) column.unavailable = errors.trim().split("\n").at(-1) ?? "";
  return column;
}

const figure = (value: number, digits = 3): string =>
  Number(value.toPrecision(digits)).toLocaleString("en", { maximumSignificantDigits: digits });

function report(columns: readonly Column[], machine: ReadonlyMap<number, MachineFigures>): string {
  const lines = [
    `${cpus()[0]?.model}, ${availableParallelism()} cores; Node ${process.versions.node}; ${new Date().toISOString().slice(0, 10)}.`,
    "",
    "| this machine | multiply-add | read, 32 MiB | read, 512 MiB |",
    "|---|---|---|---|",
    ...[...machine].map(
      ([threads, { gigaflops, fused, readNear, readFar }]) =>
        `| ${threads === 1 ? "1 thread" : `${threads} threads`} | ${figure(gigaflops)} GFLOP/s${fused ? "" : " (not fused)"} | ${figure(readNear)} GB/s | ${figure(readFar)} GB/s |`,
    ),
  ];
  for (const benchCase of cases.filter(({ name }) => only.test(name)))
    lines.push("", ...table(benchCase, columns, machine));
  return `${lines.join("\n")}\n`;
}

function table(
  benchCase: BenchCase,
  columns: readonly Column[],
  machine: ReadonlyMap<number, MachineFigures>,
): string[] {
  const lines = [
    `**${title(benchCase)}**`,
    "",
    "| | threads | median | least | GFLOP/s (of peak) | GB/s (of read) | qkv is faster by |",
    "|---|---|---|---|---|---|---|",
  ];
  for (const { subject, version, threads, timings, unavailable, errors } of columns) {
    const timing = timings[benchCase.name];
    const name = version ?? subject;
    if (!timing) {
      const why = unavailable ?? errors[benchCase.name] ?? (benchCase.peers ? "" : "too large");
      lines.push(`| ${name} | ${threads} | — ${why.replaceAll("|", "/")} | | | | |`);
      continue;
    }
    const own = columns.find((column) => column.subject === "qkv" && column.threads === threads);
    const ours = own?.timings[benchCase.name];
    const { gigaflops, readNear, readFar } = machine.get(threads)!;
    const rate = flops(benchCase) / timing.median / 1e6;
    const bandwidth = bytes(benchCase) / timing.median / 1e6;
    const read = bytes(benchCase) > 2 ** 26 ? readFar : readNear;
    const percent = (part: number) => `${Math.round(100 * part)} %`;
    lines.push(
      `| ${name} | ${threads} | ${figure(timing.median)} ms | ${figure(timing.minimum)} ms | ${figure(rate)} (${percent(rate / gigaflops)}) | ${figure(bandwidth)} (${percent(bandwidth / read)}) | ${subject === "qkv" || !ours ? "" : `${figure(timing.median / ours.median, 2)}×`} |`,
    );
  }
  return lines;
}

if (values.child !== undefined) {
  const [subject, threads] = values.child.split(",") as [string, string];
  await runSubject(subject, Number(threads), peers, seconds, only, (line) =>
    process.stdout.write(`${JSON.stringify(line)}\n`),
  );
  // Some peers leave threads that would keep the process.
  process.exit();
}

const names = values.subjects.split(",");
if (names.some((name) => name !== "qkv") && !existsSync(join(peers, "node_modules"))) {
  console.error("installing what to compare with, into bench/cpu/node_modules");
  const options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"];
  spawnSync("npm", ["install", ...options], { cwd: peers, stdio: "inherit" });
}
const threadCounts = values.threads.split(",").map(Number);
const machine = new Map<number, MachineFigures>();
for (const threads of threadCounts) machine.set(threads, await measureMachine(threads));
const columns: Column[] = [];
for (const threads of threadCounts)
  for (const name of names) columns.push(await runColumn(name, threads));
const text = report(columns, machine);
console.log(text);
mkdirSync(values.out, { recursive: true });
writeFileSync(join(values.out, "cpu.md"), text);
writeFileSync(
  join(values.out, "cpu.json"),
  JSON.stringify({ machine: Object.fromEntries(machine), columns }, null, 2),
);
