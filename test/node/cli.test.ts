import { spawn } from "node:child_process";
import { once } from "node:events";
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { assert } from "chai";
import { readNpy, writeNpy } from "../../cli/npy.ts";
import { random } from "../support/random.ts";

// The command line as users start it: dist/cli.js, in a process of its own.

const root = fileURLToPath(new URL("../../../", import.meta.url));

interface Outcome {
  status: number | null;
  stdout: string;
  stderr: string;
}

/** Runs the command line of the package in a folder. */
async function qkvIn(
  folder: string,
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Promise<Outcome> {
  const { FORCE_COLOR: _, QKV_REQUIRE_WEBGPU: __, ...inherited } = process.env;
  const child = spawn(process.execPath, [join(folder, "dist/cli.js"), ...args], {
    env: { ...inherited, NO_COLOR: "1", ...environment },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [stdout, stderr, [status]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, "close"),
  ]);
  return { status, stdout, stderr };
}

const qkv = (...args: readonly string[]) => qkvIn(root, args);

/** Asserts that a command printed nothing but one line on stderr. */
function assertFails(outcome: Outcome, status: number, line: RegExp): void {
  assert.match(outcome.stderr, line);
  assert.equal(outcome.stderr.trim().split("\n").length, 1, outcome.stderr);
  assert.equal(outcome.stdout, "");
  assert.equal(outcome.status, status);
}

function assertSucceeds(outcome: Outcome): void {
  assert.equal(outcome.status, 0, outcome.stderr + outcome.stdout);
}

/** Two processes at a time. */
const parallel = { concurrency: 2 };

describe("command line", () => {
  let folder: string;
  let path: (name: string) => string;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "qkv-cli-"));
    path = (name) => join(folder, name);
    const { normal } = random();
    const save = (name: string, ...shape: number[]) => {
      const length = shape.reduce((product, axis) => product * axis, 1);
      return writeNpy(path(name), Float32Array.from({ length }, normal), shape);
    };
    await save("q.npy", 64);
    await save("k.npy", 2003, 64);
    await save("v.npy", 2003, 64);
    await save("queries.npy", 5, 7);
    await save("keys.npy", 1009, 7);
    await save("values.npy", 1009, 3);
  });

  after(() => rm(folder, { recursive: true }));

  describe("usage", parallel, () => {
    test("--version prints the package's", async () => {
      const outcome = await qkv("--version");
      const { version } = JSON.parse(await readFile(join(root, "package.json"), "utf8"));
      assertSucceeds(outcome);
      assert.equal(outcome.stdout, `${version}\n`);
    });

    test("--help names the commands, examples and exit statuses", async () => {
      const outcome = await qkv("--help");
      assertSucceeds(outcome);
      for (const part of [/^ {2}demo /m, /^ {2}run /m, /^ {2}devices /m, /^ {2}explain /m])
        assert.match(outcome.stdout, part);
      assert.match(outcome.stdout, /Examples:/);
      assert.match(outcome.stdout, /Exit status:/);
    });

    const wrong: [args: string[], line: RegExp][] = [
      [["--fast"], /^qkv: unknown option '--fast'/],
      [["runn"], /^qkv: unknown command 'runn' \(Did you mean run\?\)/],
      [["run", "q", "k", "v"], /^qkv run: required option '--out <OUT.npy>' not specified/],
      [["run", "q", "k", "--out", "o"], /^qkv run: missing required argument 'V.npy'/],
      [["demo", "--device", "tpu"], /^qkv demo: .*It must be "webgpu" or "cpu"/],
      [["explain", "--keys", "0", "--depth", "4"], /^qkv explain: .*an integer of 1 or more/],
    ];
    for (const [args, line] of wrong)
      test(`refuses ${args.join(" ")}`, async () => assertFails(await qkv(...args), 2, line));
  });

  describe("demo", parallel, () => {
    test("passes on both devices", async () => {
      const outcome = await qkv("demo");
      assertSucceeds(outcome);
      for (let step = 1; step <= 7; step++)
        assert.match(outcome.stdout, new RegExp(`^${step} {2}\\S`, "m"));
      assert.match(outcome.stdout, /^ +CPU .*PASS {2}CPU/m);
      assert.match(outcome.stdout, /^ +WebGPU .*PASS {2}WebGPU: /m);
      assert.match(outcome.stdout, /^PASS {2}CPU and WebGPU: within 1e-4 of NumPy\.$/m);
      assert.notInclude(outcome.stdout, "\x1b");
    });

    test("gives its steps as JSON", async () => {
      const outcome = await qkv("demo", "--device", "cpu", "--json");
      assertSucceeds(outcome);
      const { steps, devices, pass } = JSON.parse(outcome.stdout);
      assert.deepEqual(
        steps.steps.map(({ values }: { values: number[] }) => values.length),
        [16, 256, 16, 16, 16, 16, 16],
      );
      assert.isTrue(pass);
      assert.isBelow(devices[0].largestDifference, 1e-6);
    });
  });

  describe("run", parallel, () => {
    test("computes a vector on the CPU", async () => {
      const [q, k, v, out] = ["q.npy", "k.npy", "v.npy", "cpu.npy"].map(path) as string[];
      const outcome = await qkv("run", q!, k!, v!, "--out", out!, "--device", "cpu", "--check");
      assertSucceeds(outcome);
      assert.match(outcome.stdout, /^PASS: the largest difference from float64 is /m);
      assert.equal(outcome.stderr, "");
      assert.deepEqual((await readNpy(out!)).shape, [64]);
    });

    test("computes a vector on WebGPU", async () => {
      const [q, k, v, out] = ["q.npy", "k.npy", "v.npy", "webgpu.npy"].map(path) as string[];
      const options = ["--out", out!, "--device", "webgpu", "--check", "--json"];
      const outcome = await qkv("run", q!, k!, v!, ...options);
      assertSucceeds(outcome);
      const { device, shape, check } = JSON.parse(outcome.stdout);
      assert.equal(device.kind, "webgpu");
      assert.deepEqual(shape, [64]);
      assert.isTrue(check.pass);
      assert.deepEqual((await readNpy(out!)).shape, [64]);
    });

    test("computes a matrix", async () => {
      const files = ["queries.npy", "keys.npy", "values.npy"].map(path);
      const out = path("matrix.npy");
      assertSucceeds(await qkv("run", ...files, "--out", out, "--device", "cpu", "--check"));
      assert.deepEqual((await readNpy(out)).shape, [5, 3]);
    });

    test("computes many queries a block at a time, and shows the stages", async () => {
      const { normal } = random();
      const [queries, keys] = [2003, 16_787];
      const q = Float32Array.from({ length: queries }, normal);
      await writeNpy(path("many-q.npy"), q, [queries, 1]);
      const k = Float32Array.from({ length: keys }, normal);
      await writeNpy(path("many-k.npy"), k, [keys, 1]);
      const out = path("many.npy");
      const files = ["many-q.npy", "many-k.npy", "many-k.npy"].map(path);
      const options = ["--out", out, "--device", "cpu", "--check"];
      const outcome = await qkv("run", ...files, ...options);
      assertSucceeds(outcome);
      assert.match(outcome.stderr, /^qkv run: reading .*many-q\.npy \[2003, 1\], 8\.01 kB$/m);
      assert.match(outcome.stderr, /^qkv run: computing on CPU/m);
      assert.deepEqual((await readNpy(out)).shape, [queries, 1]);
    });

    test("writes nothing if the check fails", async () => {
      // Between these two, float32 has steps of 1/128.
      await writeNpy(path("large.npy"), new Float32Array([100_000, 100_000.0078125]), [2, 1]);
      await writeNpy(path("one.npy"), new Float32Array([1]), [1]);
      await writeNpy(path("two.npy"), new Float32Array([0.1, 1]), [2, 1]);
      const files = ["one.npy", "two.npy", "large.npy"].map(path);
      const out = path("never.npy");
      const outcome = await qkv("run", ...files, "--out", out, "--device", "cpu", "--check");
      assert.equal(outcome.status, 1);
      assert.match(outcome.stdout, /^FAIL: the largest difference from float64 is /);
      assert.match(outcome.stderr, /^qkv run: .*never\.npy is not written/);
      assert.notInclude(await readdir(folder), "never.npy");
    });

    test("refuses a file in one line", async () => {
      const bytes = await readFile(path("q.npy"), "latin1");
      await writeFile(path("float64.npy"), bytes.replace("<f4", "<f8"), "latin1");
      const files = ["float64.npy", "k.npy", "v.npy"].map(path);
      const outcome = await qkv("run", ...files, "--out", path("refused.npy"));
      assertFails(outcome, 1, /^qkv run: .*float64\.npy: dtype must be float32, .* got float64;/);
      assert.notInclude(await readdir(folder), "refused.npy");
    });

    test("refuses shapes that do not fit", async () => {
      const files = ["q.npy", "keys.npy", "values.npy"].map(path);
      const outcome = await qkv("run", ...files, "--out", path("refused.npy"));
      assertFails(outcome, 1, /^qkv run: attention: key depth must equal query depth/);
    });

    test("refuses a result that has nowhere to go", async () => {
      const files = ["q.npy", "k.npy", "v.npy"].map(path);
      const outcome = await qkv("run", ...files, "--out", path("no/such/folder.npy"));
      assertFails(outcome, 1, /^qkv run: .*folder\.npy: cannot be written: no such file/);
    });
  });

  describe("devices", parallel, () => {
    test("describes the adapter", async () => {
      const outcome = await qkv("devices");
      assertSucceeds(outcome);
      assert.match(outcome.stdout, /^WebGPU {2}\S/);
      assert.match(outcome.stdout, /^ +maxStorageBufferBindingSize +[\d,]+ +134,217,728/m);
      assert.match(outcome.stdout, /^ +Missing$/m);
      assert.match(outcome.stdout, /^CPU /m);
    });

    test("as JSON, lists each feature as there or missing", async () => {
      const outcome = await qkv("devices", "--json");
      assertSucceeds(outcome);
      const [webgpu, cpu] = JSON.parse(outcome.stdout).devices;
      const missing = webgpu.missing.map(({ feature }: { feature: string }) => feature);
      assert.sameMembers(
        [...webgpu.features, ...missing],
        ["subgroups", "shader-f16", "chromium-experimental-subgroup-matrix", "timestamp-query"],
      );
      assert.isBoolean(webgpu.software);
      assert.equal(cpu.kind, "cpu");
    });
  });

  describe("explain", parallel, () => {
    test("prints the kernels and temporaries on WebGPU", async () => {
      const shapes = ["--queries", "2", "--keys", "16", "--depth", "16"];
      const fused = await qkv("explain", ...shapes, "--device", "webgpu");
      assertSucceeds(fused);
      assert.match(fused.stdout, /attention_decode .*few query rows/);
      const outcome = await qkv("explain", ...shapes, "--device", "webgpu", "--steps", "--json");
      assertSucceeds(outcome);
      const { steps, buffers } = JSON.parse(outcome.stdout);
      assert.deepEqual(
        steps.map(({ kernel }: { kernel: string }) => kernel),
        ["transpose", "matmul", "softmax", "matmul"],
      );
      const temporaries = buffers.filter(({ role }: { role: string }) => role === "temporary");
      assert.equal(temporaries.length, 2);
    });

    test("takes a matrix and a depth of the values", async () => {
      const shapes = ["--queries", "2", "--keys", "5", "--depth", "3", "--value-depth", "7"];
      const outcome = await qkv("explain", ...shapes, "--device", "cpu");
      assertSucceeds(outcome);
      for (const type of ["float32[2, 3]", "float32[5, 3]", "float32[5, 7]", "float32[2, 7]"])
        assert.include(outcome.stdout, type);
    });
  });

  describe("where there is no WebGPU", parallel, () => {
    let alone: string;

    // A copy, from where the package `webgpu` is not found.
    before(async () => {
      alone = await mkdtemp(join(tmpdir(), "qkv-alone-"));
      for (const name of ["dist", "package.json"])
        await cp(join(root, name), join(alone, name), { recursive: true });
    });

    after(() => rm(alone, { recursive: true }));

    test("the demo passes on the CPU and says so", async () => {
      const outcome = await qkvIn(alone, ["demo"]);
      assertSucceeds(outcome);
      assert.match(outcome.stdout, /^PASS {2}CPU: within 1e-4 of NumPy\. WebGPU: not tested\.$/m);
      assert.match(outcome.stdout, /npm install webgpu/);
    });

    test("the demo fails if WebGPU is asked for", async () => {
      for (const [args, environment] of [
        [["demo", "--device", "webgpu"], {}],
        [["demo"], { QKV_REQUIRE_WEBGPU: "1" }],
      ] as const) {
        const outcome = await qkvIn(alone, args, environment);
        assert.equal(outcome.status, 1);
        assert.match(outcome.stdout, /^FAIL .*WebGPU: not tested, and it was asked for\.$/m);
      }
    });

    test("devices says how to get it", async () => {
      const outcome = await qkvIn(alone, ["devices"]);
      assertSucceeds(outcome);
      assert.match(outcome.stdout, /not available.*How to get it.*npm install webgpu/s);
    });

    test("other commands fail in one line if it is asked for, else use the CPU", async () => {
      const explain = ["explain", "--keys", "2", "--depth", "2"];
      const outcome = await qkvIn(alone, [...explain, "--device", "webgpu"]);
      assertFails(outcome, 1, /^qkv explain: no WebGPU here .*npm install webgpu/);
      assertSucceeds(await qkvIn(alone, explain));
    });
  });
});
