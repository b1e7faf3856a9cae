// What is compared. Each subject runs in a process of its own, for one number of threads.

import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { custom } from "../../src/graph/ops/custom.ts";
import { scaledDotProductAttentionOp } from "../../src/graph/ops/scaled-dot-product-attention.ts";
import type { DeviceTensor } from "../../src/index.ts";
import { Graph, InferenceSession, requestDevice, TensorType, tensor } from "../../src/index.ts";
import { type BenchCase, cases, packedShape, shapes } from "./cases.ts";
import { attentionChain } from "./onnx.ts";
import { type Timing, timeCall, timeChain } from "./timing.ts";

/** A peer's interface, whose types are not there when this is compiled. */
// biome-ignore lint/suspicious/noExplicitAny: as it says
type Peer = any;

/** Times one case; undefined where the subject cannot run it. */
type Time = (benchCase: BenchCase, seconds: number) => Promise<Timing>;

export interface Subject {
  /** Why it does not run with so many threads, or in this engine. */
  unavailable?(threads: number): string | undefined;
  /** Opens it, and says what it is. */
  open(threads: number, peers: string): Promise<{ readonly version: string; readonly time: Time }>;
}

const numbers = (count: number): Float32Array => {
  const result = new Float32Array(count);
  let state = 1;
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    result[i] = state / 2 ** 31;
  }
  return result;
};

const size = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** Imports a peer by name: its types are not there when this is compiled. */
async function load(
  peers: string,
  name: string,
): Promise<{ api: Peer; folder: string; version: string }> {
  const require = createRequire(join(peers, "package.json"));
  const path = require.resolve(name);
  const folder = path.slice(
    0,
    path.lastIndexOf(`node_modules/${name}/`) + `node_modules/${name}/`.length,
  );
  const { version, exports, module } = require(join(folder, "package.json"));
  const entry: string =
    exports?.["."]?.node?.import ??
    exports?.["."]?.import?.default ??
    exports?.["."]?.import ??
    module ??
    path;
  const file = join(folder, typeof entry === "string" && !entry.startsWith("/") ? entry : "");
  try {
    return { api: await import(pathToFileURL(file).href), folder, version };
  } catch {
    return { api: require(path), folder: dirname(path), version };
  }
}

async function qkv(threads: number) {
  const device = await requestDevice("cpu", { threads });
  const time: Time = async (benchCase, seconds) => {
    const inputs = shapes(benchCase).map((shape) =>
      device.upload(tensor(numbers(size(shape)), shape)),
    );
    const heads = benchCase.packed ? { queryHeads: benchCase.heads, kvHeads: benchCase.heads } : {};
    const types = inputs.map(({ dtype, shape }) => new TensorType(dtype, shape));
    const graph = new Graph("bench", {
      inputTypes: types,
      customExtensions: [scaledDotProductAttentionOp],
      forward: (...values) =>
        custom(scaledDotProductAttentionOp.name, { values, parameters: heads })[0]!,
    });
    const model = await new InferenceSession({ device }).load(graph);
    const outputs: DeviceTensor[] = [device.allocate("float32", inputs[0]!.shape)];
    // The caller works too, and is done when the call returns.
    const timing = await timeCall(seconds, () => {
      model.executeInto(inputs, outputs);
      return device.queue.busy ? outputs[0]!.read() : undefined;
    });
    for (const each of [...inputs, ...outputs]) each.destroy();
    model.destroy();
    return timing;
  };
  return { version: device.description, time };
}
const onnxTime =
  (ort: Peer, options: object): Time =>
  async (benchCase, seconds) => {
    const { batch, heads, queries, depth, chain } = benchCase;
    const [q, k, v] = shapes(benchCase);
    const query = packedShape(batch, heads, queries, depth);
    const feeds = {
      q0: new ort.Tensor("float32", numbers(size(q)), query),
      k: new ort.Tensor("float32", numbers(size(k)), k),
      v: new ort.Tensor("float32", numbers(size(v)), v),
    };
    const sessions = await Promise.all(
      [1, chain].map((ops) => ort.InferenceSession.create(attentionChain(benchCase, ops), options)),
    );
    const [short, long] = sessions.map((session) => () => session.run(feeds));
    const timing = await timeChain(seconds, chain, short!, long!);
    for (const session of sessions) await session.release();
    return timing;
  };

export const subjects: Readonly<Record<string, Subject>> = {
  qkv: { open: qkv },
  "onnxruntime-web": {
    async open(threads, peers) {
      const { api: ort, version } = await load(peers, "onnxruntime-web");
      ort.env.wasm.numThreads = threads;
      const options = { executionProviders: ["wasm"] };
      return { version: `onnxruntime-web ${version} (wasm)`, time: onnxTime(ort, options) };
    },
  },
  "onnxruntime-node": {
    async open(threads, peers) {
      const { api, version } = await load(peers, "onnxruntime-node");
      const ort = api.default ?? api;
      const options = { intraOpNumThreads: threads, executionProviders: ["cpu"] };
      return { version: `onnxruntime-node ${version} (CPU, native)`, time: onnxTime(ort, options) };
    },
  },
  "tfjs-backend-wasm": {
    unavailable: (threads) => (threads > 1 ? "its threads want a page" : undefined),
    async open(_threads, peers) {
      const { api: tf, version } = await load(peers, "@tensorflow/tfjs-core");
      const { api: wasm, folder } = await load(peers, "@tensorflow/tfjs-backend-wasm");
      wasm.setWasmPaths(folder.includes("/dist") ? `${folder}/` : join(folder, "dist/"));
      await tf.setBackend("wasm");
      await tf.ready();
      const time: Time = async (benchCase, seconds) => {
        const [q, k, v] = shapes(benchCase).map((shape) => tf.tensor(numbers(size(shape)), shape));
        const scale = 1 / Math.sqrt(benchCase.depth);
        // From packed tensors to those that it multiplies, and back.
        const { batch, heads, depth, packed } = benchCase;
        const split = (x: Peer) =>
          packed ? tf.transpose(tf.reshape(x, [batch, -1, heads, depth]), [0, 2, 1, 3]) : x;
        const join = (x: Peer) =>
          packed ? tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [batch, -1, heads * depth]) : x;
        const attention = (x: Peer) => {
          const scores = tf.matMul(split(x), split(k), false, true);
          return join(tf.matMul(tf.softmax(tf.mul(scores, scale)), split(v)));
        };
        const run = (ops: number) => () =>
          tf
            .tidy(() => {
              let x = q;
              for (let i = 0; i < ops; i++) x = attention(x);
              return x;
            })
            .dispose();
        const timing = await timeChain(seconds, benchCase.chain, run(1), run(benchCase.chain));
        for (const each of [q, k, v]) each.dispose();
        return timing;
      };
      return { version: `@tensorflow/tfjs-backend-wasm ${version}`, time };
    },
  },
  "jax-js": {
    unavailable: (threads) =>
      Number(process.versions.node.split(".")[0]) < 24
        ? "it wants Node 24"
        : threads > 1
          ? "its WebAssembly backend has one thread"
          : undefined,
    async open(_threads, peers) {
      const { api: jax, version } = await load(peers, "@jax-js/jax");
      await jax.init("wasm");
      jax.defaultDevice("wasm");
      const { numpy, nn, jit } = jax;
      const time: Time = async (benchCase, seconds) => {
        const { batch, heads, queries, keys, depth, chain } = benchCase;
        // [batch, rows, heads, depth] here: packed, whatever the case says.
        const arrays = [queries, keys, keys].map((rows) =>
          numpy.array(numbers(batch * rows * heads * depth)).reshape([batch, rows, heads, depth]),
        );
        const attention = jit((q: Peer, k: Peer, v: Peer) => nn.dotProductAttention(q, k, v));
        const run = (ops: number) => async () => {
          let x = arrays[0].ref;
          for (let i = 0; i < ops; i++) x = attention(x, arrays[1].ref, arrays[2].ref);
          await x.blockUntilReady();
          x.dispose();
        };
        return timeChain(seconds, chain, run(1), run(chain));
      };
      return { version: `@jax-js/jax ${version} (wasm)`, time };
    },
  },
};

/** What a subject's process prints: one line of JSON a result. */
export type Line =
  | { readonly version: string }
  | { readonly case: string; readonly timing?: Timing; readonly error?: string };

/** Runs one subject in this process. */
export async function runSubject(
  name: string,
  threads: number,
  peers: string,
  seconds: number,
  only: RegExp,
  print: (line: Line) => void,
): Promise<void> {
  const { version, time } = await subjects[name]!.open(threads, peers);
  print({ version });
  for (const benchCase of cases) {
    if (!only.test(benchCase.name) || (name !== "qkv" && !benchCase.peers)) continue;
    try {
      print({ case: benchCase.name, timing: await time(benchCase, seconds) });
    } catch (error) {
      print({ case: benchCase.name, error: String(error) });
    }
  }
}
