// Runs the code of exercises: away from the page, so that a loop without end can be stopped, and on a
// device of its own, so that a lost one disturbs nothing.

import { CompilationError, type Device, requestDevice } from "qkv";
import { check, time } from "./check.ts";
import { CodeError, compile, problemOf } from "./compile.ts";
import { exercises } from "./exercises/index.ts";
import type { RunReply, RunRequest } from "./messages.ts";

let opened: Promise<Device> | undefined;

const reply = (message: RunReply) => postMessage(message);

async function run({ exercise: number, code }: RunRequest): Promise<void> {
  const exercise = exercises[number]!;
  reply({ kind: "progress", text: "Compiling…" });
  opened ??= requestDevice();
  let device = await opened;
  if (device.lost) {
    opened = requestDevice();
    device = await opened;
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
      const { wgsl, messages, message } = error;
      reply({ kind: "shader", problems: { wgsl, messages }, message });
    } else reply({ kind: "problem", problem: problemOf(error) });
  }
}

addEventListener("message", ({ data }: MessageEvent<RunRequest>) => void run(data));
