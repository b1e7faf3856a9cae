import { defineOp, matmul, TensorType, transpose } from "qkv";

// First an orchestration: an op that enqueues kernels one after another, over temporaries that the planner
// finds memory for. Each call records; nothing runs yet. Then, for the last check, one kernel of your own.
export const op = defineOp({
  name: "my_attention",
  infer: ([q, , v]) => [new TensorType("float32", [q!.shape[0]!, v!.shape[1]!])],
  webgpu: ({ inputs: [q, k, v], outputs: [output], allocate, enqueue }) => {
    const [queries] = q!.shape as [number, number];
    const [keys, depth] = k!.shape as [number, number];

    const keyTransposed = allocate("float32", [depth, keys]);
    enqueue(transpose, { input: k!, output: keyTransposed });

    const scores = allocate("float32", [queries, keys]);
    enqueue(matmul, { a: q!, b: keyTransposed, output: scores });

    // TODO: the weights, in place of the scores: softmaxInPlace, also of qkv, takes { values }

    enqueue(matmul, { a: scores, b: v!, output: output! });
  },
});
