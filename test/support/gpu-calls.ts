const deviceMethods = [
  "createBuffer",
  "createBindGroup",
  "createShaderModule",
  "createComputePipeline",
  "createComputePipelineAsync",
  "createCommandEncoder",
] as const;
const queueMethods = ["submit", "writeBuffer"] as const;

type Method = (typeof deviceMethods)[number] | (typeof queueMethods)[number];

/** Calls of a WebGPU device's methods. */
export interface GPUCalls {
  /** How often each was called since `countGPUCalls`. */
  readonly counts: Readonly<Record<Method, number>>;
  /** Counts no more. */
  stop(): void;
}

/** Counts what is asked of a device from now on. */
export function countGPUCalls(gpuDevice: GPUDevice): GPUCalls {
  const counts = {} as Record<Method, number>;
  const watch = <Name extends Method>(target: object, names: readonly Name[]) => {
    const before = names.map((name) => Object.getOwnPropertyDescriptor(target, name));
    for (const name of names) {
      counts[name] = 0;
      const method = Reflect.get(target, name) as (...args: unknown[]) => unknown;
      Reflect.set(target, name, (...args: unknown[]) => {
        counts[name]++;
        return method.apply(target, args);
      });
    }
    return () => {
      for (const [i, name] of names.entries()) {
        Reflect.deleteProperty(target, name); // the prototype's shows again
        if (before[i]) Object.defineProperty(target, name, before[i]);
      }
    };
  };
  const stops = [watch(gpuDevice, deviceMethods), watch(gpuDevice.queue, queueMethods)];
  return {
    counts,
    stop() {
      for (const stop of stops) stop();
    },
  };
}
