import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { BenchCase } from "./cases.ts";
import type { Timing } from "./timer.ts";

/** What a peer made of a case. */
export interface PeerResult {
  readonly case: string;
  readonly peer: string;
  readonly timing?: Timing;
  readonly error?: string;
}

/** Each runs in a process of its own, and prints its results as lines of JSON. */
const peers: Readonly<Record<string, (request: string) => ReturnType<typeof spawn>>> = {
  onnxruntime: (request) => {
    const script = import.meta.url.replace(/peers\.(ts|js)$/, "onnxruntime.$1");
    return spawn(process.execPath, [fileURLToPath(script), request], {
      stdio: ["ignore", "pipe", "pipe"],
    });
  },
  pytorch: (request) => {
    const child = spawn("python3", [resolve("bench/pytorch.py")], {
      stdio: ["pipe", "pipe", "pipe"],
    });
    child.stdin.on("error", () => {}); // it is not there, or has no torch
    child.stdin.end(request);
    return child;
  },
};

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
  const child = peers[name]!(JSON.stringify({ cases, milliseconds }));
  const results: PeerResult[] = [];
  let errors = "";
  child.stderr!.on("data", (data) => {
    errors += data;
  });
  const ended = new Promise<string>((done) => {
    child.on("error", ({ message }) => done(message));
    child.on("close", (code) => done(code === 0 ? "" : `ended with ${code}`));
  });
  for await (const line of createInterface(child.stdout!)) {
    if (!line.startsWith("{")) continue;
    const result = JSON.parse(line) as PeerResult;
    results.push(result);
    const { timing, error } = result;
    log(`${result.peer}: ${result.case}: ${timing ? `${timing.median.toFixed(1)} µs` : error}`);
  }
  const failure = await ended;
  if (failure !== "") log(`${name}: ${failure} ${errors.trim().split("\n").at(-1) ?? ""}`);
  return results;
}
