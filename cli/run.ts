import { setImmediate as turn } from "node:timers/promises";
import { Argument, Command } from "commander";
import { type DeviceTensor, InferenceSession, tensor } from "../src/index.ts";
import { attentionGraph, fusedAttentionGraph } from "./attention-graph.ts";
import {
  type AnyDevice,
  describeDevice,
  deviceOption,
  deviceText,
  openDevice,
  type WithDevice,
} from "./device-option.ts";
import { CommandError } from "./error.ts";
import { allocate, checkWritable, NpyFile, writeNpy } from "./npy.ts";
import { Progress } from "./progress.ts";
import { largestDifference, referenceRow, tolerance, toleranceText } from "./reference.ts";
import { bytes, difference, print, printJSON, seconds, shapeText, verdict } from "./text.ts";

interface Options extends WithDevice {
  readonly out: string;
  readonly check?: true;
  readonly json?: true;
}

/** Scores computed at a time, 64 MB of them, so that many queries keep within a device's limits. */
const scoresAtOnce = 2 ** 24;

/** Multiplications at a time, so that progress shows: a few seconds of a CPU's work. */
const workAtOnce = 2 ** 31;

/** Multiplications from which on progress is worth showing. */
const longWork = 2 ** 26;

export function runCommand(): Command {
  return new Command("run")
    .summary("compute attention of arrays in .npy files")
    .description(
      "Compute softmax(Q·Kᵀ)·V, unscaled, of NumPy arrays in .npy files: float32, little-endian, " +
        "in C or Fortran order, of any size.",
    )
    .addArgument(new Argument("<Q.npy>", "[depth] for one query, or [queries, depth]"))
    .addArgument(new Argument("<K.npy>", "[keys, depth]"))
    .addArgument(new Argument("<V.npy>", "[keys, value depth]"))
    .requiredOption("--out <OUT.npy>", "the result: [value depth], or [queries, value depth]")
    .addOption(deviceOption("WebGPU if it is here, else the CPU"))
    .option(
      "--check",
      `first compare with a float64 reference; write nothing and fail if they differ by more than ${toleranceText}`,
    )
    .option("--json", "print what was done as JSON")
    .addHelpText(
      "after",
      "\nExamples:\n" +
        "  qkv run q.npy k.npy v.npy --out out.npy\n" +
        "  qkv run q.npy k.npy v.npy --out out.npy --device cpu --check",
    )
    .action(async (q: string, k: string, v: string, options: Options) => {
      const files: NpyFile[] = [];
      try {
        for (const path of [q, k, v]) files.push(await NpyFile.open(path));
        await run(files as [q: NpyFile, k: NpyFile, v: NpyFile], options);
      } finally {
        await Promise.all(files.map((file) => file.close()));
      }
    });
}

async function run(files: [q: NpyFile, k: NpyFile, v: NpyFile], options: Options): Promise<void> {
  const start = performance.now();
  const [q, k, v] = files;
  // What can be wrong is found out before the work begins. The graph checks the shapes.
  const { outputs } = attentionGraph({ q: q.shape, k: k.shape, v: v.shape });
  const outputShape = outputs[0]!.type.resolve({});
  await checkWritable(options.out);
  using device = await openDevice(options.device);

  const [keys, depth] = k.shape as [number, number];
  const valueDepth = v.shape[1]!;
  const queries = q.length / depth;
  const workPerQuery = keys * (depth + valueDepth);
  using progress = new Progress("qkv run", queries * workPerQuery > longWork);

  // Blocks of one size, so that one plan serves them all: the last may begin within the one before.
  const rows = Math.floor(Math.min(scoresAtOnce / keys, workAtOnce / workPerQuery));
  const blockRows = Math.min(queries, Math.max(1, rows));
  const blockShape = q.shape.length === 1 ? q.shape : [blockRows, depth];
  const graph = fusedAttentionGraph({ q: blockShape, k: k.shape, v: v.shape });
  using model = await new InferenceSession({ device }).load(graph);

  const loadedAt = performance.now();
  const query = allocate(q.path, q.length);
  await readInto(query, q, progress);
  const key = await readToDevice(k, device, options, progress);
  const value = await readToDevice(v, device, options, progress);
  const readAt = performance.now();

  progress.stage(`computing on ${device.description}`);
  const result = allocate(options.out, queries * valueDepth);
  for (let first = 0; first < queries; first += blockRows) {
    const row = Math.min(first, queries - blockRows);
    const block = query.subarray(row * depth, (row + blockRows) * depth);
    const [output] = model.execute(tensor(block, blockShape), key.tensor, value.tensor);
    result.set((await output!.read()).data, row * valueDepth);
    output!.destroy();
    progress.update((row + blockRows) / queries);
    await turn();
  }
  const computedAt = performance.now();

  let largest: number | undefined;
  if (options.check) {
    progress.stage("checking against a float64 reference");
    largest = await check(result, query, { keys, key: key.data(), value: value.data() }, progress);
  }
  const checkedAt = performance.now();
  const pass = largest === undefined || largest <= tolerance;
  if (pass) await writeNpy(options.out, result, outputShape);
  progress[Symbol.dispose]();

  if (options.json)
    printJSON({
      out: options.out,
      written: pass,
      dtype: "float32",
      shape: outputShape,
      device: describeDevice(device),
      seconds: {
        load: (loadedAt - start) / 1000,
        read: (readAt - loadedAt) / 1000,
        compute: (computedAt - readAt) / 1000,
        ...(options.check && { check: (checkedAt - computedAt) / 1000 }),
      },
      ...(largest !== undefined && { check: { largestDifference: largest, tolerance, pass } }),
    });
  else {
    const where = deviceText(describeDevice(device));
    if (pass)
      print(
        `${options.out}: float32 ${shapeText(outputShape)}, computed in ` +
          `${seconds(computedAt - readAt)} on ${where}`,
      );
    if (largest !== undefined)
      print(
        `${verdict(pass)}: the largest difference from float64 is ${difference(largest)}, of ${toleranceText} allowed`,
      );
  }
  if (!pass)
    throw new CommandError(
      `${options.out} is not written: it would differ from float64 by ${difference(largest!)}`,
    );
}

/** A file's tensor on the device, and its elements on the host, to be had if they are needed. */
interface Loaded {
  readonly tensor: DeviceTensor;
  data(): Float32Array;
}

async function readToDevice(
  file: NpyFile,
  device: AnyDevice,
  { check }: Options,
  progress: Progress,
): Promise<Loaded> {
  if (device.kind === "cpu") {
    // Read in place. The elements are asked for anew each time: their memory may move.
    const inPlace = device.allocate("float32", file.shape);
    const data = () => inPlace.data as Float32Array;
    await readInto(data(), file, progress);
    return { tensor: inPlace, data };
  }
  const host = allocate(file.path, file.length);
  await readInto(host, file, progress);
  const kept = check ? host : new Float32Array();
  return { tensor: device.upload(tensor(host, file.shape)), data: () => kept };
}

async function readInto(data: Float32Array, file: NpyFile, progress: Progress): Promise<void> {
  progress.stage(`reading ${file.path} ${shapeText(file.shape)}, ${bytes(data.byteLength)}`);
  await file.read(data, (count) => progress.update(count / data.byteLength));
}

/** The largest difference of a result from the reference. */
async function check(
  result: Float32Array,
  query: Float32Array,
  inputs: { keys: number; key: Float32Array; value: Float32Array },
  progress: Progress,
): Promise<number> {
  const depth = inputs.key.length / inputs.keys;
  const valueDepth = inputs.value.length / inputs.keys;
  const queries = query.length / depth;
  const weights = new Float64Array(inputs.keys);
  let largest = 0;
  for (let row = 0; row < queries; row++) {
    const expected = referenceRow(query.subarray(row * depth, (row + 1) * depth), inputs, weights);
    const got = result.subarray(row * valueDepth, (row + 1) * valueDepth);
    largest = Math.max(largest, largestDifference(got, expected));
    progress.update((row + 1) / queries);
    await turn();
  }
  return largest;
}
