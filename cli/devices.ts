import { availableParallelism } from "node:os";
import { Command } from "commander";
import { DeviceUnavailableError, requestDevice, type WebGPUDevice } from "../src/index.ts";
import { describeDevice, unavailableReason } from "./device-option.ts";
import { bold, dim, green, grouped, print, printJSON, table, yellow } from "./text.ts";

/** The optional features: what for, why an adapter may lack one, and what is done without it. */
const features: Readonly<Record<string, Readonly<Record<"use" | "why" | "means", string>>>> = {
  subgroups: {
    use: "reductions across lanes, in softmax",
    why: "the driver, or this runtime, offers no subgroup operations to compute shaders",
    means: "no subgroup variants: lanes reduce through workgroup memory",
  },
  "shader-f16": {
    use: "arithmetic in float16",
    why: "the driver, or this runtime, offers no 16-bit floats in shaders and buffers",
    means: "no float16 variants: half types are widened to float32",
  },
  "chromium-experimental-subgroup-matrix": {
    use: "products on matrix units",
    why: "the GPU has no matrix units that Dawn can use, or this WebGPU is not Dawn",
    means: "no matrix-unit variants: products run on the plain lanes",
  },
  "timestamp-query": {
    use: "times taken by the GPU",
    why: "the driver, or this runtime, offers no timestamps",
    means: "no GPU times: the host's clock has to do",
  },
};

/** The limits that kernels meet: WebGPU's default, and what they bound. */
const limits = {
  maxBufferSize: [2 ** 28, "bytes of a tensor"],
  maxStorageBufferBindingSize: [2 ** 27, "bytes of a tensor that a kernel takes"],
  maxStorageBuffersPerShaderStage: [8, "tensors that a kernel takes"],
  maxComputeWorkgroupStorageSize: [16384, "bytes of workgroup memory"],
  maxComputeInvocationsPerWorkgroup: [256, "lanes of a workgroup"],
  maxComputeWorkgroupsPerDimension: [65535, "workgroups along an axis of a grid"],
} as const;

export function devicesCommand(): Command {
  return new Command("devices")
    .summary("show the devices here, what they offer and what they lack")
    .description(
      "Show the devices of this machine and runtime: the WebGPU adapter with its features and " +
        "limits, and what is missing and why; or how to get one. And the CPU.",
    )
    .option("--json", "print them as JSON")
    .action(async ({ json }: { readonly json?: true }) => {
      const [webgpu, cpu] = [await lookAtWebGPU(), await lookAtCPU()];
      if (json) printJSON({ runtime: runtimeName(), devices: [webgpu, cpu] });
      else
        print(
          ...(webgpu.available ? availableLines(webgpu) : unavailableLines(webgpu)),
          "",
          `${bold("CPU")}     ${cpu.description}`,
          `  always there; this machine has ${cpu.cores} cores`,
        );
    });
}

type WebGPUReport = ReturnType<typeof reportOn>;

interface Unavailable {
  readonly kind: "webgpu";
  readonly available: false;
  readonly why: string;
  readonly howToGet: readonly string[];
}

async function lookAtWebGPU(): Promise<WebGPUReport | Unavailable> {
  try {
    using device = await requestDevice("webgpu");
    return reportOn(device);
  } catch (error) {
    if (!(error instanceof DeviceUnavailableError)) throw error;
    const why = unavailableReason(error);
    return { kind: "webgpu", available: false, why, howToGet: howToGetWebGPU(why) };
  }
}

async function lookAtCPU() {
  using device = await requestDevice("cpu");
  return { ...describeDevice(device), available: true, cores: availableParallelism() };
}

/** What there is to say of an adapter: the device that qkv opens has all of it that kernels use. */
function reportOn(device: WebGPUDevice) {
  const { gpuDevice, capabilities } = device;
  const { vendor, architecture, device: model, description } = gpuDevice.adapterInfo;
  const has = (feature: string) => gpuDevice.features.has(feature as GPUFeatureName);
  const limitNames = Object.keys(limits) as (keyof typeof limits)[];
  return {
    ...describeDevice(device),
    available: true as const,
    adapter: { vendor, architecture, device: model, description },
    features: Object.keys(features).filter(has),
    missing: Object.entries(features)
      .filter(([name]) => !has(name))
      .map(([feature, { why, means }]) => ({ feature, why, means })),
    limits: limitNames.map((limit) => {
      const [least, bounds] = limits[limit];
      return { limit, value: gpuDevice.limits[limit], default: least, bounds };
    }),
    ...(capabilities.subgroups && { subgroupSizes: capabilities.subgroups }),
    matrixShapes: capabilities.matrixShapes,
  };
}

function availableLines(report: WebGPUReport): string[] {
  const { description, software, missing, subgroupSizes, matrixShapes } = report;
  const shapes = matrixShapes.map(
    ({ M, N, K, component, result }) => `${M}×${N}×${K} ${component} to ${result}`,
  );
  const sizes = subgroupSizes && [...new Set([subgroupSizes.min, subgroupSizes.max])];
  const details: Readonly<Record<string, string | undefined>> = {
    subgroups: sizes && `: ${sizes.join(" to ")} lanes`,
    "chromium-experimental-subgroup-matrix": `: ${shapes.join(", ")}`,
  };
  const flags = process.env["QKV_DAWN_FLAGS"];
  return [
    `${bold("WebGPU")}  ${description.replace(/^WebGPU: /, "")}`,
    software ? `  ${yellow("in software")}: it runs on the CPU, right but slow` : "  in hardware",
    "",
    bold("  Features"),
    ...table(
      "<<<",
      Object.entries(features).map(([name, { use }]) =>
        report.features.includes(name)
          ? [`  ${name}`, green("yes"), use + (details[name] ?? "")]
          : [`  ${name}`, yellow("no"), use],
      ),
    ),
    "",
    bold("  Limits"),
    ...table("<>><", [
      ["", dim("here"), dim("default"), ""],
      ...report.limits.map(({ limit, value, default: least, bounds }) => [
        `  ${limit}`,
        grouped(value),
        grouped(least),
        value > least ? bounds : `${bounds} ${dim("(no more than the default)")}`,
      ]),
    ]),
    "",
    bold("  Missing"),
    ...(missing.length === 0 ? ["    nothing: every variant of a kernel can run"] : []),
    ...missing.flatMap(({ feature, why, means }) => [
      `    ${feature}`,
      `      why: ${why}`,
      `      so:  ${means}`,
    ]),
    ...(flags ? ["", `  QKV_DAWN_FLAGS replaces the flags that qkv gives Dawn: ${flags}`] : []),
  ];
}

function unavailableLines({ why, howToGet }: Unavailable): string[] {
  return [
    `${bold("WebGPU")}  ${yellow("not available")} in ${runtimeName()}`,
    `  ${why}`,
    "",
    bold("  How to get it"),
    ...howToGet.map((line) => `    - ${line}`),
  ];
}

/** What may help in this runtime, on this system. */
function howToGetWebGPU(why: string): string[] {
  const { bun, deno } = process.versions;
  const linux = process.platform === "linux";
  const advice = /no adapter/.test(why)
    ? [
        linux
          ? "With a GPU: install its Vulkan driver, and libvulkan.so.1 (Debian: libvulkan1)."
          : "With a GPU: install its current driver.",
        linux &&
          "In a container: pass the GPU in, for NVIDIA with its graphics part, as in " +
            "docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=all",
      ]
    : [!deno && `Install Dawn beside qkv: ${bun ? "bun add" : "npm install"} webgpu`];
  const software =
    linux &&
    process.arch === "x64" &&
    'Without a GPU: in a clone of qkv, eval "$(npm run --silent software-gpu)" makes one in software.';
  return [...advice, software].filter((line) => typeof line === "string");
}

function runtimeName(): string {
  const { bun, deno, node } = process.versions;
  if (bun) return `Bun ${bun}`;
  return deno ? `Deno ${deno}` : `Node ${node}`;
}
