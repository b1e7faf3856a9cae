import { describe, test } from "node:test";
import { assert } from "chai";
import { reportDevice } from "../run/report.ts";

// The runtime itself: WebGPU answers, and computes. Everything else builds on this.

/** The ways to WebGPU that this runtime has, by name. */
async function waysToWebGPU(): Promise<{ name: string; gpu: GPU }[]> {
  if (globalThis.navigator?.gpu !== undefined)
    return [{ name: "navigator.gpu", gpu: navigator.gpu }];
  const { create } = await import("webgpu");
  const ways = [{ name: "webgpu", gpu: create([]) }];
  if ("Bun" in globalThis) {
    const { createGPUInstance } = await import("bun-webgpu");
    ways.push({ name: "bun-webgpu", gpu: createGPUInstance() });
  }
  return ways;
}

/** A kernel's one result: `value` squared. */
async function square(device: GPUDevice, value: number): Promise<number | undefined> {
  const code = `
    @group(0) @binding(0) var<storage, read_write> data: array<f32>;
    @compute @workgroup_size(1) fn square() { data[0] *= data[0]; }`;
  const pipeline = device.createComputePipeline({
    layout: "auto",
    compute: { module: device.createShaderModule({ code }) },
  });
  // The bits of GPUBufferUsage and GPUMapMode, which are no globals in Node and Bun.
  const mapRead = 0x1;
  const copySource = 0x4;
  const copyDestination = 0x8;
  const storage = 0x80;
  const data = device.createBuffer({ size: 4, usage: storage | copySource | copyDestination });
  const staging = device.createBuffer({ size: 4, usage: mapRead | copyDestination });
  device.queue.writeBuffer(data, 0, new Float32Array([value]));
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(
    0,
    device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [{ binding: 0, resource: { buffer: data } }],
    }),
  );
  pass.dispatchWorkgroups(1);
  pass.end();
  encoder.copyBufferToBuffer(data, 0, staging, 0, 4);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(mapRead);
  return new Float32Array(staging.getMappedRange())[0];
}

for (const { name, gpu } of await waysToWebGPU())
  describe(`runtime, ${name}`, () => {
    test("a compute shader squares a number", async () => {
      const adapter = await gpu.requestAdapter();
      assert(adapter, "no adapter");
      const { vendor, architecture, device: model, description } = adapter.info;
      const parts = [vendor, architecture, model, description].filter((part) => part !== "");
      reportDevice("adapter", `${name}: ${parts.join(" ")}`);
      const device = await adapter.requestDevice();
      try {
        assert.equal(await square(device, 7), 49);
      } finally {
        device.destroy();
      }
    });
  });
