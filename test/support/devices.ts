import { after, before, describe } from "node:test";
import {
  type Device,
  type DeviceKind,
  type DeviceTensor,
  type DType,
  requestDevice,
  type Shape,
  type TensorData,
  tensor,
  WebGPUDevice,
} from "../../src/index.ts";
import { allocateData, tensorBytes, viewData } from "../../src/tensor/dtype.ts";
import { elementCount } from "../../src/tensor/shape.ts";
import { reportDevice } from "../run/report.ts";
import { setting } from "./random.ts";

/** A device that suites run on. */
export interface TestDevice {
  readonly name: string;
  readonly kind: DeviceKind;
  open(): Promise<Device>;
}

const all: readonly TestDevice[] = [
  { name: "cpu", kind: "cpu", open: () => requestDevice("cpu") },
  // WebGPU with all that the adapter offers, and with the least that every adapter does.
  { name: "webgpu", kind: "webgpu", open: () => requestDevice("webgpu") },
  {
    name: "portable webgpu",
    kind: "webgpu",
    open: () => requestDevice("webgpu", { portable: true }),
  },
];

/** Every device that the conformance suites run on: `QKV_DEVICES`, names between commas, or all. */
const testDevices = (setting("QKV_DEVICES")?.split(",") ?? all.map(({ name }) => name)).map(
  (wanted) => {
    const device = all.find(({ name }) => name === wanted);
    if (!device) throw new Error(`QKV_DEVICES must be among ${all.map(({ name }) => name)}`);
    return device;
  },
);

/** Those of them on WebGPU. */
export const webgpuDevices = testDevices.filter(({ kind }) => kind === "webgpu");

/**
 * Declares one suite for each device. It fails, not skips, where a device is not to be had.
 *
 * @param suite Declares the tests. The device is there once they run.
 */
export function onEachDevice(
  title: string,
  suite: (device: () => Device, kind: DeviceKind) => void,
): void {
  for (const device of testDevices) onDevice(title, device, suite);
}

/** {@link onEachDevice} for the WebGPU devices. */
export function onEachWebGPU(title: string, suite: (device: () => WebGPUDevice) => void): void {
  for (const device of webgpuDevices)
    onDevice(title, device, (open) => suite(() => open() as WebGPUDevice));
}

function onDevice(
  title: string,
  { name, kind, open }: TestDevice,
  suite: (device: () => Device, kind: DeviceKind) => void,
): void {
  describe(`${title}, ${name}`, () => {
    let device: Device;
    before(async () => {
      device = await open();
      reportDevice(name, device.description.replace(/^WebGPU: /, ""));
    });
    after(() => device?.destroy());
    suite(() => device, kind);
  });
}

/** A float32 tensor on a device. */
export function upload(device: Device, data: ArrayLike<number>, shape: Shape): DeviceTensor {
  return device.upload(tensor(Float32Array.from(data), shape));
}

/** An output to test a kernel with: poisoned, and between guards where memory has neighbors. */
export interface GuardedTensor {
  readonly tensor: DeviceTensor;
  /** The elements. Rejects if memory before or after them was touched. */
  read(): Promise<TensorData>;
}

const guardBytes = 256;
const guard = 0xa5;

/** @param data What the tensor holds. Default: every bit set, which is NaN for floats. */
export function guardedTensor(
  device: Device,
  dtype: DType,
  shape: Shape,
  data?: TensorData,
): GuardedTensor {
  // WebGPU copies and binds whole words, so a kernel may write the rest of the last one.
  const bytes = Math.ceil(tensorBytes(dtype, shape) / 4) * 4;
  const memory = new Uint8Array(bytes + 2 * guardBytes).fill(guard);
  memory.fill(0xff, guardBytes, guardBytes + bytes);
  const inner = viewData(dtype, memory.buffer, guardBytes, elementCount(shape));
  if (data) inner.set(data);
  if (!(device instanceof WebGPUDevice)) {
    const own = device.upload({ data: inner, dtype, shape });
    return { tensor: own, read: async () => (await own.read()).data };
  }

  const usage = 0x80 | 0x8 | 0x4; // STORAGE, COPY_DST, COPY_SRC
  const buffer = device.gpuDevice.createBuffer({ size: memory.byteLength, usage });
  device.gpuDevice.queue.writeBuffer(buffer, 0, memory);
  const whole = device.wrap(buffer, "int32", [memory.byteLength / 4]);
  const wrapped = device.wrap(buffer, dtype, shape, guardBytes);
  return {
    tensor: wrapped,
    async read() {
      // The failure of the call that wrote the tensor is the tensor's own.
      const [, { data: words }] = await Promise.all([wrapped.read(), whole.read()]);
      buffer.destroy();
      const after = new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
      after.forEach((byte, i) => {
        if ((i < guardBytes || i >= guardBytes + bytes) && byte !== guard)
          throw new Error(`byte ${i - guardBytes} of a tensor of ${bytes} bytes was written`);
      });
      const result = allocateData(dtype, elementCount(shape));
      result.set(viewData(dtype, after.slice(guardBytes).buffer, 0, result.length));
      return result;
    },
  };
}
