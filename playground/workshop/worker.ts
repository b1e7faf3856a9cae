// Runs the code of exercises: away from the page, so that a loop without end can be stopped, and on a
// device of its own, so that a lost one disturbs nothing.

import { CompilationError, type Device, requestDevice, WebGPUDevice } from "qkv";
import { recordShaders, type ShaderTexts } from "../device/shader-texts.ts";
import { check, time } from "./check.ts";
import { CodeError, compile, problemOf } from "./compile.ts";
import { exercises } from "./exercises/index.ts";
import type { RunReply, RunRequest } from "./messages.ts";

let opened: Promise<{ device: Device; shaders: ShaderTexts }> | undefined;

async function open(): Promise<{ device: Device; shaders: ShaderTexts }> {
  const device = await requestDevice();
  return { device, shaders: device instanceof WebGPUDevice ? recordShaders(device) : [] };
}

const reply = (message: RunReply) => postMessage(message);

async function run({ exercise: number, code }: RunRequest): Promise<void> {
  const exercise = exercises[number]!;
  reply({ kind: "progress", text: "Compiling…" });
  opened ??= open();
  let { device, shaders } = await opened;
  if (device.lost) {
    opened = open();
    ({ device, shaders } = await opened);
  }
  try {
    const op = await compile(code);
    reply({ kind: "progress", text: "Checking…" });
    const { checks, plan } = await check(device, op, exercise);
    const passed = checks.every(({ failure }) => failure === undefined);
    if (passed) reply({ kind: "progress", text: "Timing…" });
    const timing = passed ? await time(device, op, exercise) : undefined;
    reply({ kind: "checked", checks, timing, plan, device: device.description });
  } catch (error) {
    if (error instanceof CodeError) reply({ kind: "problem", problem: error.problem });
    else if (error instanceof CompilationError) {
      const kernel = error.message.split(":")[0];
      const wgsl = shaders.findLast((shader) => shader.kernel === kernel)?.wgsl ?? "";
      const { messages, message } = error;
      reply({ kind: "shader", problems: { wgsl, messages }, message });
    } else reply({ kind: "problem", problem: problemOf(error) });
  }
}

addEventListener("message", ({ data }: MessageEvent<RunRequest>) => void run(data));
