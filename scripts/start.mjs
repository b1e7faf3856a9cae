// npm start: the demo on the CPU and on the GPU, in software if need be.

import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { gpuEnvironment } from "./gpu-environment.mjs";

const { kind, variables, reason } = await gpuEnvironment();
console.log(reason);
// A GPU was found or made: the demo must pass on it.
const required = kind === "none" ? {} : { QKV_REQUIRE_WEBGPU: "1" };
const { status } = spawnSync(
  process.execPath,
  [fileURLToPath(new URL("../dist/cli.js", import.meta.url)), "demo", ...process.argv.slice(2)],
  { stdio: "inherit", env: { ...process.env, ...variables, ...required } },
);
process.exitCode = status ?? 1;
