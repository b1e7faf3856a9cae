import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import { assert } from "chai";
import { CPUDevice } from "../../src/devices/cpu/device.ts";
import {
  type DeviceTensor,
  Graph,
  InferenceSession,
  ops,
  QkvError,
  requestDevice,
  TensorType,
  ThreadError,
  tensor,
} from "../../src/index.ts";
import { matmul } from "../../src/kernels/matmul/kernel.ts";

// What only Node shows of the CPU device: memory, threads that die, and processes that end.

const source = (path: string) => pathToFileURL(join(import.meta.dirname, "../../src", path)).href;

/** Runs a module in a process of its own; rejects if that does not end in time. */
async function run(code: string): Promise<{ stdout: string; code: number | null }> {
  const child = spawn(process.execPath, ["--input-type=module", "--eval", code], {
    stdio: ["ignore", "pipe", "inherit"],
    timeout: 15_000,
  });
  let stdout = "";
  child.stdout.on("data", (data) => {
    stdout += data;
  });
  const [exit] = await once(child, "close");
  return { stdout, code: exit };
}

const ones = (side: number) => tensor(new Float32Array(side * side).fill(1), [side, side]);

/** A product that takes threads a while. */
function longProduct(device: CPUDevice): DeviceTensor {
  const a = device.upload(ones(1200));
  const output = device.allocate("float32", [1200, 1200]);
  device.enqueue(matmul, { a, b: a, output });
  a.destroy();
  return output;
}

describe("CPU device, memory", () => {
  for (const threads of [1, 2])
    test(`ten thousand calls leave it where it was, threads: ${threads}`, async () => {
      const device = await requestDevice("cpu", { threads });
      const shape = [16, 16];
      const type = new TensorType("float32", shape);
      const graph = new Graph("chain", {
        inputTypes: [type, type],
        forward: (a, b) => ops.softmax(ops.add(ops.matmul(a!, b!), b!)),
      });
      const model = await new InferenceSession({ device }).load(graph);
      const host = ones(16);
      const kept = device.upload(host);
      const call = async () => {
        const [result] = model.execute(host, kept) as [DeviceTensor];
        await result.read();
        result.destroy();
      };
      await call();
      const { used } = device.memory;
      const { byteLength } = kept.data.buffer;
      for (let i = 0; i < 10_000; i++) await call();
      assert.equal(device.memory.used, used);
      assert.equal(kept.data.buffer.byteLength, byteLength);
      model.destroy();
      kept.destroy();
      device.destroy();
    });

  test("a released range is used again, and neighbors become one", async () => {
    const device = await CPUDevice.open({ threads: 1, maximumBytes: 4 << 20 });
    if (device.build === "typescript") throw new Error("no WebAssembly");
    for (let round = 0; round < 3; round++) {
      const parts = Array.from({ length: 10 }, () => device.allocate("float32", [64_000]));
      for (const i of [1, 3, 5, 7, 9, 0, 2, 8, 4, 6]) parts[i]!.destroy();
      device.allocate("float32", [640_000]).destroy();
    }
    assert.equal(device.memory.used, 0);
  });

  test("exhaustion says how much there is and what to do", async () => {
    const device = await CPUDevice.open({ threads: 1, maximumBytes: 8 << 20 });
    const held = device.allocate("float32", [1 << 20]);
    assert.throws(
      () => device.allocate("float32", [1 << 20]),
      QkvError,
      /no room for 4,194,304 bytes: 4,194,304 of 8,388,608 bytes are in use; give tensors back/,
    );
    held.destroy();
    device.allocate("float32", [1 << 20]).destroy();
  });

  test("more than 4 GiB is refused with the reason", async () => {
    const device = await requestDevice("cpu", { threads: 1 });
    assert.throws(
      () => device.allocate("float32", [2 ** 31]),
      QkvError,
      /at most 4 GiB, all that WebAssembly's 32-bit addresses reach, got 8,589,934,592 bytes/,
    );
  });

  test("a tensor's data is in place, and nobody copies it", async () => {
    const device = await requestDevice("cpu", { threads: 2 });
    const a = device.allocate("float32", [2, 2]);
    a.data.set([1, 2, 3, 4]);
    const output = device.allocate("float32", [2, 2]);
    device.enqueue(matmul, { a, b: a, output });
    assert.deepEqual([...(await output.read()).data], [7, 10, 15, 22]);
    assert.strictEqual(a.data.buffer, output.data.buffer);
    device.destroy();
  });

  test("threads must be a number of them", async () => {
    for (const threads of [0, 1.5, -1, 1000, "2"])
      try {
        await requestDevice("cpu", { threads: threads as number });
        assert.fail("nothing was refused");
      } catch (error) {
        assert.match(String(error), /QkvError: requestDevice: threads must be an integer/);
      }
  });
});

describe("CPU device, threads", () => {
  test("one that dies takes its call with it, and the next works", async () => {
    const device = await CPUDevice.open({ threads: 2, participates: false });
    await longProduct(device).read();
    const output = longProduct(device);
    const reading = output.read();
    await (device.pool!.alive[0] as { terminate(): Promise<void> }).terminate();
    try {
      await reading;
      assert.fail("nothing was rejected");
    } catch (error) {
      assert.instanceOf(error, ThreadError);
      assert.match(String(error), /a thread died \(it exited with code 1\)/);
    }
    const { data } = await longProduct(device).read();
    assert.equal(data[0], 1200);
    assert.equal(data.at(-1), 1200);
    device.destroy();
  });

  test("what is computed from a failed result fails too", async () => {
    const device = await CPUDevice.open({ threads: 2, participates: false });
    await longProduct(device).read();
    const failed = longProduct(device);
    const next = device.allocate("float32", [1200, 1200]);
    device.enqueue(matmul, { a: failed, b: failed, output: next });
    const reading = next.read();
    await (device.pool!.alive[1] as { terminate(): Promise<void> }).terminate();
    try {
      await reading;
      assert.fail("nothing was rejected");
    } catch (error) {
      assert.instanceOf(error, ThreadError);
    }
    device.destroy();
  });

  test("one that dies idle is replaced", async () => {
    const device = await CPUDevice.open({ threads: 2 });
    await longProduct(device).read();
    await (device.pool!.alive[0] as { terminate(): Promise<void> }).terminate();
    assert.equal(device.pool!.alive.length, 0);
    assert.equal((await longProduct(device).read()).data[0], 1200);
    assert.equal(device.pool!.alive.length, 1);
    device.destroy();
  });

  for (const participates of [true, false])
    test(`a process ends when its work is done, caller ${participates ? "works" : "waits"}`, async () => {
      const { stdout, code } = await run(`
        import { CPUDevice } from ${JSON.stringify(source("devices/cpu/device.js"))};
        import { matmul } from ${JSON.stringify(source("kernels/matmul/kernel.js"))};
        const device = await CPUDevice.open({ threads: 3, participates: ${participates} });
        const a = device.upload({ data: new Float32Array(1e6).fill(1), shape: [1000, 1000], dtype: "float32" });
        const output = device.allocate("float32", [1000, 1000]);
        for (let i = 0; i < 5; i++) device.enqueue(matmul, { a, b: a, output });
        output.read().then(({ data }) => console.log(data[0]));
      `);
      assert.deepEqual({ stdout, code }, { stdout: "1000\n", code: 0 });
    });
});
