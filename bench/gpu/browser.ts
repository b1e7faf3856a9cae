import { create, globals } from "webgpu";

// What libraries made for browsers look for, given by the same Dawn as qkv's.

/** What became of the devices that the library has opened. */
export interface BrowserGPU {
  /** Resolves when all that was submitted is done. @throws What WebGPU found wrong meanwhile. */
  done(): Promise<void>;
}

/** Makes `navigator.gpu` and WebGPU's classes global. */
export function provideWebGPU(): BrowserGPU {
  const gpu = create((process.env["QKV_DAWN_FLAGS"] ?? "").split(" ").filter(Boolean));
  const devices: GPUDevice[] = [];
  // Libraries do not look: a buffer too large would give wrong results in no time.
  const errors: string[] = [];
  const requestAdapter = async (options?: GPURequestAdapterOptions) => {
    const adapter = await gpu.requestAdapter(options);
    if (!adapter) return null;
    const requestDevice = adapter.requestDevice.bind(adapter);
    adapter.requestDevice = async ({ requiredFeatures = [], ...rest } = {}) => {
      // TensorFlow.js puts a list into the list, which browsers read as its only member.
      const features = [...requiredFeatures].flat() as GPUFeatureName[];
      const device = await requestDevice({ ...rest, requiredFeatures: features });
      device.addEventListener("uncapturederror", ({ error }) => errors.push(error.message));
      device.lost.then(({ message }) => errors.push(message));
      devices.push(device);
      return device;
    };
    return adapter;
  };
  Object.assign(globalThis, globals);
  const navigator = globalThis.navigator ?? { userAgent: "Node" };
  Object.defineProperty(navigator, "gpu", {
    value: {
      requestAdapter,
      getPreferredCanvasFormat: () => "bgra8unorm",
      wgslLanguageFeatures: gpu.wgslLanguageFeatures,
    },
  });
  Object.defineProperty(globalThis, "navigator", { value: navigator, configurable: true });
  return {
    async done() {
      await Promise.all(devices.map(({ queue }) => queue.onSubmittedWorkDone()));
      const [first] = errors.splice(0);
      if (first !== undefined) throw new Error(first);
    },
  };
}
