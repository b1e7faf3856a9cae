import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { BenchCase } from "./cases.ts";
import { missingPackages } from "./packages.ts";
import type { Timing } from "./timer.ts";

/** What a peer made of a case. */
export interface PeerResult {
  readonly case: string;
  readonly peer: string;
  /** Which of several ways that it has. */
  readonly variant?: string;
  readonly timing?: Timing;
  /** Largest absolute error over the rows looked at, where the result was looked at. */
  readonly worst?: number;
  readonly correct?: boolean;
  readonly error?: string;
}

/** A peer that is a script beside this one. One that hangs is not waited for. */
const script = (name: string) => (request: string) => {
  const url = import.meta.url.replace(/peers\.(ts|js)$/, `${name}.$1`);
  return spawn(process.execPath, [fileURLToPath(url), request], {
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 180_000,
  });
};

/** Each runs in processes of its own, which print their results as lines of JSON. */
const peers: Readonly<Record<string, (request: string) => ReturnType<typeof spawn>>> = {
  onnxruntime: script("onnxruntime"),
  "jax-js": script("jax"),
  "tfjs-webgpu": script("tensorflow"),
  pytorch: (request) => {
    const child = spawn("python3", [resolve("bench/pytorch.py")], {
      stdio: ["pipe", "pipe", "pipe"],
    });
    child.stdin.on("error", () => {}); // it is not there, or has no torch
    child.stdin.end(request);
    return child;
  },
};

const packages: Readonly<Record<string, readonly string[]>> = {
  onnxruntime: ["onnxruntime-node"],
  "jax-js": ["@jax-js/jax"],
  "tfjs-webgpu": ["@tensorflow/tfjs-core", "@tensorflow/tfjs-backend-webgpu"],
};

/** Those of the peers that can be run, after installing what can be. What cannot is told by `log`. */
export function availablePeers(names: readonly string[], log: (line: string) => void): string[] {
  const packagesOf = (name: string) => packages[name] ?? [];
  const missing = new Set(missingPackages(names.flatMap(packagesOf), log));
  return names.filter((name) => {
    const absent = packagesOf(name).filter((each) => missing.has(each));
    if (absent.length > 0) log(`${name}: not found: ${absent.join(", ")}`);
    return absent.length === 0;
  });
}

export const peerNames: readonly string[] = Object.keys(peers);

/** Runs a peer on all cases. What it could not do is told by `log`. */
export async function runPeer(
  name: string,
  cases: readonly BenchCase[],
  milliseconds: number,
  log: (line: string) => void,
): Promise<PeerResult[]> {
  if (name === "pytorch" && !existsSync("bench/pytorch.py")) {
    log("pytorch: start the benchmark in the package's folder");
    return [];
  }
  const results: PeerResult[] = [];
  // A case that a GPU device does not outlive takes no other with it. PyTorch starts too slowly.
  for (const some of name === "pytorch" ? [cases] : cases.map((each) => [each])) {
    const { exitCode, printed } = await runProcess(name, some, milliseconds, log);
    results.push(...printed);
    if (exitCode === 1 && printed.length === 0) break; // it does not run here
  }
  return results;
}

async function runProcess(
  name: string,
  cases: readonly BenchCase[],
  milliseconds: number,
  log: (line: string) => void,
): Promise<{ readonly exitCode: number | null; readonly printed: readonly PeerResult[] }> {
  const child = peers[name]!(JSON.stringify({ cases, milliseconds }));
  const printed: PeerResult[] = [];
  let errors = "";
  child.stderr!.on("data", (data) => {
    errors += data;
  });
  const ended = new Promise<string>((done) => {
    child.on("error", ({ message }) => done(message));
    child.on("close", (code, signal) => done(code === 0 ? "" : `ended with ${code ?? signal}`));
  });
  for await (const line of createInterface(child.stdout!)) {
    if (!line.startsWith("{")) continue;
    const result = JSON.parse(line) as PeerResult;
    printed.push(result);
    const { timing, correct, worst, error } = result;
    const off = correct === false ? `, off by ${worst?.toExponential(1) ?? "NaN"}` : "";
    const who = [result.peer, result.variant].filter(Boolean).join(", ");
    log(`${who}: ${result.case}: ${timing ? `${timing.median.toFixed(1)} µs${off}` : error}`);
  }
  const failure = await ended;
  if (failure !== "") {
    const told = errors.trim().split("\n");
    log(`${name}: ${failure} ${told.find((line) => line.includes("Error: ")) ?? told.at(-1)}`);
  }
  return { exitCode: child.exitCode, printed };
}
