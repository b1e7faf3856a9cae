import type { Capabilities } from "../../devices/capabilities.ts";
import {
  defineKernel,
  floatBits,
  foldWorkgroups,
  type Launch,
  type TensorShape,
  type WasmLaunch,
} from "../../devices/kernel.ts";
import { refuse } from "../../errors.ts";
import { tensorBytes } from "../../tensor/dtype.ts";
import { elementCount, sameShape } from "../../tensor/shape.ts";
import { checkFloat32 } from "../checks.ts";
import { elementwiseWGSL, lanes } from "./elementwise.wgsl.ts";

const uniforms = { count: "u32", gridWidth: "u32", factor: "f32" } as const;

function launch(wgsl: string, count: number, capabilities: Capabilities, factor = 1): Launch {
  const [gridWidth, gridHeight] = foldWorkgroups(Math.ceil(count / lanes), capabilities);
  return { wgsl, workgroups: [gridWidth, gridHeight, 1], uniforms: { count, gridWidth, factor } };
}

/** Elements of a task, or bytes of a copy. */
const taskCount = 65_536;
const operations = { scale: 0, mul: 1, add: 2, copy: 3 } as const;

function wasmLaunch(
  operation: keyof typeof operations,
  a: string,
  count: number,
  factor = 1,
): WasmLaunch {
  return {
    function: "elementwise",
    tasks: Math.ceil(count / taskCount),
    work: count,
    scratch: 0,
    words: [
      ...[operations[operation], { tensor: a }, { tensor: "b" }, { tensor: "output" }],
      ...[count, floatBits(factor), taskCount],
    ],
  };
}

function checkShapes(operation: string, tensors: Readonly<Record<string, TensorShape>>): void {
  const [first, ...others] = Object.entries(tensors);
  for (const [name, { shape }] of others)
    if (!sameShape(shape, first![1].shape))
      refuse(
        operation,
        `${name} must have the shape of ${first![0]}, [${first![1].shape.join(", ")}]`,
        [...shape],
      );
}

/** `output` = `input` · factor; float32 of one shape. */
export const scale = defineKernel({
  name: "scale",
  tensors: { input: "read", output: "write" },
  uniforms,
  check({ input, output }, _parameters: { readonly factor: number }) {
    checkFloat32("scale", { input, output });
    checkShapes("scale", { input, output });
  },
  webgpu: ({ tensors: { input }, parameters: { factor }, capabilities }) =>
    launch(
      elementwiseWGSL(["input"], "input[i] * uniforms.factor"),
      elementCount(input.shape),
      capabilities,
      factor,
    ),
  wasm: ({ input }, { factor }) => wasmLaunch("scale", "input", elementCount(input.shape), factor),
  cpu({ input, output }, { factor }) {
    for (let i = 0; i < output.data.length; i++) output.data[i] = input.data[i]! * factor;
  },
});

const defineBinary = (
  name: "mul" | "add",
  operator: string,
  apply: (a: number, b: number) => number,
) =>
  defineKernel({
    name,
    tensors: { a: "read", b: "read", output: "write" },
    uniforms,
    check(tensors) {
      checkFloat32(name, { ...tensors });
      checkShapes(name, { ...tensors });
    },
    webgpu: ({ tensors: { a }, capabilities }) =>
      launch(
        elementwiseWGSL(["a", "b"], `a[i] ${operator} b[i]`),
        elementCount(a.shape),
        capabilities,
      ),
    wasm: ({ a }) => wasmLaunch(name, "a", elementCount(a.shape)),
    cpu({ a, b, output }) {
      for (let i = 0; i < output.data.length; i++) output.data[i] = apply(a.data[i]!, b.data[i]!);
    },
  });

/** `output` = `a` · `b` and `output` = `a` + `b`, element by element; float32 of one shape. */
export const binary = {
  mul: defineBinary("mul", "*", (a, b) => a * b),
  add: defineBinary("add", "+", (a, b) => a + b),
};

/** `output` = `input`, of one dtype and shape. */
export const copy = defineKernel({
  name: "copy",
  tensors: { input: "read", output: "write" },
  uniforms,
  check({ input, output }) {
    if (input.dtype !== output.dtype)
      refuse("copy", `output must have the dtype of input, ${input.dtype}`, output.dtype);
    checkShapes("copy", { input, output });
  },
  // By words, whatever the dtype: buffers are made of whole ones.
  webgpu: ({
    tensors: {
      input: { dtype, shape },
    },
    capabilities,
  }) =>
    launch(
      elementwiseWGSL(["input"], "input[i]", "u32"),
      Math.ceil(tensorBytes(dtype, shape) / 4),
      capabilities,
    ),
  wasm: ({ input: { dtype, shape } }) => wasmLaunch("copy", "input", tensorBytes(dtype, shape)),
  cpu: ({ input, output }) => output.data.set(input.data),
});
