import { Command } from "commander";
import { attention, type DeviceKind, DeviceUnavailableError, requestDevice } from "../src/index.ts";
import {
  type AnyDevice,
  type DescribedDevice,
  describeDevice,
  deviceOption,
  deviceText,
  unavailableReason,
  type WithDevice,
} from "./device-option.ts";
import { exitStatus } from "./error.ts";
import { largestDifference, norm, tolerance, toleranceText } from "./reference.ts";
import { origin } from "./seed42.ts";
import {
  bold,
  difference,
  dim,
  grouped,
  print,
  printJSON,
  shapeText,
  table,
  verdict,
  yellow,
} from "./text.ts";
import {
  example,
  type HandCheck,
  numpy,
  type Step,
  size,
  type WalkThrough,
  walkThrough,
} from "./walk-through.ts";

interface Options extends WithDevice {
  readonly json?: true;
}

/** What a device made of the example. */
interface Result extends DescribedDevice {
  readonly available: true;
  readonly walk: WalkThrough;
  readonly output: Float32Array;
  readonly norm: number;
  readonly largestDifference: number;
  readonly pass: boolean;
}

/** A device that is not there. */
interface Absent {
  readonly kind: DeviceKind;
  readonly available: false;
  readonly why: string;
}

interface Report {
  readonly results: readonly Result[];
  readonly absent: readonly Absent[];
  readonly pass: boolean;
}

const deviceNames = { cpu: "CPU", webgpu: "WebGPU" } as const;

export function demoCommand(): Command {
  return new Command("demo")
    .summary("walk through attention on a small example, and check it")
    .description(
      "Walk through softmax(q·Kᵀ)·V on a built-in 16×16 example: the shapes, the seven steps with " +
        "their values, some scores by hand, and the output of each device against NumPy's.",
    )
    .addOption(deviceOption("both, if WebGPU is here"))
    .option("--json", "print all of it as JSON")
    .action(async ({ device, json }: Options) => {
      const report = await demo(device);
      if (json) printJSON(reportData(report));
      else print(...reportLines(report));
      if (!report.pass) process.exitCode = exitStatus.failure;
    });
}

async function demo(kind: DeviceKind | undefined): Promise<Report> {
  const required = kind !== undefined || Boolean(process.env["QKV_REQUIRE_WEBGPU"]);
  const results: Result[] = [];
  const absent: Absent[] = [];
  for (const wanted of kind ? [kind] : (["cpu", "webgpu"] as const)) {
    try {
      using device = await requestDevice(wanted);
      results.push(await resultOf(device));
    } catch (error) {
      if (!(error instanceof DeviceUnavailableError)) throw error;
      absent.push({ kind: wanted, available: false, why: unavailableReason(error) });
    }
  }
  const pass = results.every((result) => result.pass) && (absent.length === 0 || !required);
  return { results, absent, pass };
}

async function resultOf(device: AnyDevice): Promise<Result> {
  const walk = await walkThrough(device);
  // The steps were kernels one by one; this is the op in a graph, as users call it.
  const { data } = await attention(example.q, example.k, example.v, { device });
  const output = data as Float32Array;
  const largest = largestDifference(output, numpy.output);
  return {
    ...describeDevice(device),
    available: true,
    walk,
    output,
    norm: norm(output),
    largestDifference: largest,
    pass: walk.pass && largest <= tolerance,
  };
}

function reportData({ results, absent, pass }: Report) {
  const shown = results.at(-1);
  return {
    origin,
    shapes: {
      ...Object.fromEntries(Object.entries(example).map(([name, { shape }]) => [name, shape])),
      output: [numpy.output.length],
    },
    ...(shown && {
      steps: {
        device: shown.kind,
        steps: shown.walk.steps.map(({ values, ...step }, i) => ({
          step: i + 1,
          ...step,
          values: [...values],
        })),
        byHand: shown.walk.handChecks,
      },
    }),
    reference: { output: [...numpy.output], norm: norm(numpy.output) },
    devices: [
      ...results.map(({ walk: _, output, ...result }) => ({ ...result, output: [...output] })),
      ...absent,
    ],
    tolerance,
    pass,
  };
}

function reportLines(report: Report): string[] {
  const { results } = report;
  const shown = results.at(-1);
  return [
    bold("Attention: output = softmax(q·Kᵀ)·V"),
    "A query looks up the values whose keys match it, and takes their weighted mean.",
    "",
    `${bold("Input")}  ${origin}`,
    ...shapeLines(),
    ...(shown
      ? ["", ...stepLines(shown), "", ...handLines(shown), "", ...outputLines(results)]
      : []),
    "",
    ...summaryLines(report),
    "",
    verdictLine(report),
  ];
}

function shapeLines(): string[] {
  const float32 = (...shape: number[]) => `float32 ${shapeText(shape)}`;
  return table("<<<", [
    ["q", float32(size), `one query of depth ${size}`],
    ["K", float32(size, size), `${size} keys, one a row`],
    ["V", float32(size, size), `${size} values, one a row`],
    ["output", float32(size), "a value"],
  ]);
}

function stepLines({ walk, ...device }: Result): string[] {
  const lines = [
    `${bold("The seven steps")}  on ${deviceText(device)}`,
    dim("  three kernels, run one at a time; the values are read back from the device's buffers"),
  ];
  walk.steps.forEach((step, i) => {
    lines.push("", `${bold(`${i + 1}  ${step.title}`)}  ${shapeText(step.shape)}`);
    lines.push(dim(`   ${step.text}`));
    const kernel = kernelText(step);
    if (kernel) lines.push(dim(`   ${kernel}`));
    lines.push(...valueLines(step));
    if (step.name === "weights" && step.difference !== undefined)
      lines.push(`   sum ${step.values.reduce((sum, weight) => sum + weight, 0).toFixed(6)}`);
    if (step.difference !== undefined)
      lines.push(`   largest difference from NumPy's: ${difference(step.difference)}`);
  });
  if (walk.temporaryBytes > 0)
    lines.push(
      "",
      dim(
        `   Temporary memory of the op: ${grouped(walk.temporaryBytes)} bytes: Kᵀ, and the scores that become the weights.`,
      ),
    );
  return lines;
}

/** Kernel of a step, with its variant and grid. */
function kernelText({ kernel, planned }: Step): string | undefined {
  if (kernel === undefined) return undefined;
  const { variant, workgroups } = planned ?? {};
  const details = [variant, workgroups && `${workgroups.join("×")} workgroups`].filter(Boolean);
  return `kernel ${kernel}${details.length > 0 ? `: ${details.join("; ")}` : ""}`;
}

const number = (value: number) => value.toFixed(4).padStart(8);

/** Values in lines of eight; of a matrix a corner. */
function valueLines({ name, shape, values }: Step): string[] {
  const [rows, columns] = shape.length === 2 ? (shape as [number, number]) : [1, shape[0]!];
  const across = 8;
  const label = (text: string) => `   ${text.padEnd(8)}`;
  const lines: string[] = [];
  if (rows === 1)
    for (let start = 0; start < columns; start += across)
      lines.push(
        label(start === 0 ? name : "") +
          Array.from(values.subarray(start, start + across), number).join(""),
      );
  else {
    const down = 4;
    for (let row = 0; row < down; row++) {
      const start = row * columns;
      const part = Array.from(values.subarray(start, start + across), number);
      lines.push(`${label(row === 0 ? name : "")}${part.join("")}  …`);
    }
    lines.push(`${label("")}${"…".padStart(8)}`);
  }
  return lines;
}

function handLines({ kind, walk }: Result): string[] {
  const [first] = walk.handChecks as [HandCheck];
  const products = first.products.map(
    ([q, k, product]) => `${number(q)} × ${number(k)} = ${product.toFixed(6).padStart(9)}`,
  );
  const half = Math.ceil(products.length / 2);
  return [
    `${bold("By hand")}  a score is the dot product of q and a key; that of key 0 is the sum of`,
    ...products.slice(0, half).map((left, i) => `   ${left}    ${products[half + i] ?? ""}`),
    "",
    ...table("<>>>", [
      ["", dim("by hand"), dim(`on ${deviceNames[kind]}`), dim("difference")],
      ...walk.handChecks.map(({ key, score, kernelScore, difference: gap }) => [
        ` key ${key}`,
        score.toFixed(9),
        kernelScore.toFixed(9),
        difference(gap),
      ]),
    ]),
  ];
}

function outputLines(results: readonly Result[]): string[] {
  const head = results.flatMap(({ kind }) => [dim(deviceNames[kind]), dim("difference")]);
  const rows = [...numpy.output].map((expected, i) => [
    ` ${i}`,
    expected.toFixed(8),
    ...results.flatMap(({ output }) => [
      output[i]!.toFixed(8),
      difference(Math.abs(output[i]! - expected)),
    ]),
  ]);
  return [
    `${bold("Output")}  of the op in a graph, as attention(q, k, v) runs it, against NumPy's`,
    ...table(">".repeat(2 + head.length), [["", dim("NumPy"), ...head], ...rows]),
  ];
}

function summaryLines({ results, absent }: Report): string[] {
  return [
    ...table("<<><", [
      ["", dim("norm"), dim("largest difference"), ""],
      ["NumPy", norm(numpy.output).toFixed(8), "", ""],
      ...results.map(({ pass, largestDifference: largest, ...result }) => [
        deviceNames[result.kind],
        result.norm.toFixed(8),
        difference(largest),
        `${verdict(pass)}  ${deviceText(result)}`,
      ]),
      ...absent.map(({ kind }) => [deviceNames[kind], "", "", yellow("not here")]),
    ]),
    ...absent.flatMap(({ why }) => ["", `  ${why}.`, '  "qkv devices" says more.']),
  ];
}

function verdictLine({ results, absent, pass }: Report): string {
  const names = (list: readonly { kind: DeviceKind }[]) =>
    list.map(({ kind }) => deviceNames[kind]).join(" and ");
  const sentences: string[] = [];
  const failed = results.filter((result) => !result.pass);
  const passed = results.filter((result) => result.pass);
  if (failed.length > 0)
    sentences.push(`${names(failed)}: more than ${toleranceText} away from NumPy.`);
  if (passed.length > 0) sentences.push(`${names(passed)}: within ${toleranceText} of NumPy.`);
  if (absent.length > 0)
    sentences.push(`${names(absent)}: not tested${pass ? "" : ", and it was asked for"}.`);
  return `${verdict(pass)}  ${sentences.join(" ")}`;
}
