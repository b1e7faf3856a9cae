// npm run bench:gpu: attention on the GPU against what the GPU can do and what others make of it.
//
//   --cases a,b        those whose name holds one of these
//   --variants a,b     also time these kernels, where they take the case
//   --peers a,b        of onnxruntime, jax-js, tfjs-webgpu, pytorch; or none. Default: all, and those
//                      not found are installed into bench/gpu/node_modules if npm can
//   --milliseconds n   of measuring for each figure, after a warm-up. Default 300
//   --small            sizes for a GPU in software; without it, decided by the adapter
//   --out FOLDER       where gpu.md, gpu.json and roofline.svg go. Default: build/results
//
// Each case is compared with a float64 reference before it is timed; a wrong result is marked and
// makes the run fail. Inputs that a cache would hold are rotated. Peers run in processes of their
// own, one after another.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { requestDevice } from "../src/index.ts";
import { selectCases } from "./gpu/cases.ts";
import { measureCeilings } from "./gpu/ceilings.ts";
import { availablePeers, type PeerResult, peerNames, runPeer } from "./gpu/peers.ts";
import { CaseData, type Measurement, measure } from "./gpu/qkv.ts";
import { type CaseResult, formatResults, type Results } from "./gpu/report.ts";
import { roofline } from "./gpu/roofline.ts";
import { GPUTimer } from "./gpu/timer.ts";

const { values } = parseArgs({
  options: {
    cases: { type: "string", default: "" },
    variants: { type: "string", default: "" },
    peers: { type: "string", default: peerNames.join() },
    milliseconds: { type: "string" },
    small: { type: "boolean" },
    out: { type: "string", default: "build/results" },
  },
});
const list = (text: string) => text.split(",").filter(Boolean);
const log = (line: string) => console.error(line);
const peersWanted = list(values.peers).filter((name) => name !== "none");
for (const name of peersWanted)
  if (!peerNames.includes(name)) throw new Error(`--peers: ${name} is not among ${peerNames}`);

// Without these, timestamps are rounded to 0.1 ms; the rest is what requestDevice() asks for.
process.env["QKV_DAWN_FLAGS"] ??= [
  "enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia",
  "disable-dawn-features=timestamp_quantization",
].join(" ");
const device = await requestDevice("webgpu");
const small = values.small ?? /swiftshader|llvmpipe/i.test(device.description);
const milliseconds = Number(values.milliseconds ?? (small ? 50 : 300));
const cases = selectCases(list(values.cases), small);
log(device.description);

const timer = new GPUTimer(device.gpuDevice);
const ceilings = await measureCeilings(device, timer, small);

const measured: { readonly case: CaseResult["case"]; readonly measurements: Measurement[] }[] = [];
for (const each of cases) {
  const data = new CaseData(device, each, small);
  const measurements: Measurement[] = [];
  for (const variant of [undefined, ...list(values.variants)]) {
    const result = await measure(device, timer, data, variant, milliseconds);
    measurements.push(result);
    const { timing, correct, error } = result;
    log(
      `${each.name}: ${result.variant}: ${timing ? `${timing.median.toFixed(1)} µs${correct ? "" : ", WRONG"}` : error}`,
    );
  }
  data.destroy();
  measured.push({ case: each, measurements });
}
const { description } = device;
device.destroy();

const peers: PeerResult[] = [];
for (const name of availablePeers(peersWanted, log)) {
  peers.push(...(await runPeer(name, cases, milliseconds, log)));
}

const results: Results = {
  device: description,
  runtime: `Node ${process.versions.node}`,
  date: new Date().toISOString().slice(0, 10),
  timestamps: timer.hasTimestamps,
  ceilings,
  cases: measured.map((each) => ({
    ...each,
    peers: peers.filter((peer) => peer.case === each.case.name),
  })),
};
const text = formatResults(results);
console.log(text);
mkdirSync(values.out, { recursive: true });
writeFileSync(join(values.out, "gpu.md"), text);
writeFileSync(join(values.out, "gpu.json"), JSON.stringify(results, null, 2));
writeFileSync(join(values.out, "roofline.svg"), roofline(results));
process.exitCode = measured.some(({ measurements }) =>
  measurements.some(({ correct }) => correct === false),
)
  ? 1
  : 0;
