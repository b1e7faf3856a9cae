/// <reference lib="esnext.disposable" preserve="true" />
export { type AttentionCallOptions, attention, scaledDotProductAttention } from "./attention.ts";
export type { Capabilities, MatrixShape } from "./devices/capabilities.ts";
export type { CPUDevice, CPUTensor } from "./devices/cpu/device.ts";
export type { Device, DeviceKind, DeviceTensor } from "./devices/device.ts";
export {
  type Access,
  defineKernel,
  foldWorkgroups,
  type HostView,
  type Kernel,
  type KernelDefinition,
  type Launch,
  type LaunchContext,
  type PlannedTensor,
  type TensorShape,
} from "./devices/kernel.ts";
export { type DeviceOptions, requestDevice } from "./devices/request-device.ts";
export { WebGPUDevice } from "./devices/webgpu/device.ts";
export { CompilationError } from "./devices/webgpu/pipelines.ts";
export type { WebGPUTensor } from "./devices/webgpu/tensor.ts";
export type { ExplainedPlan, ExplainedStep } from "./engine/explain.ts";
export type { Model, ModelInput } from "./engine/model.ts";
export { InferenceSession } from "./engine/session.ts";
export {
  DeviceLostError,
  DeviceUnavailableError,
  GPUOperationError,
  QkvError,
  ThreadError,
} from "./errors.ts";
export type { Dimension, DimensionValues } from "./graph/dimension.ts";
export { Graph, type GraphDefinition } from "./graph/graph.ts";
export {
  type CPUOpContext,
  defineOp,
  type HostOpTensor,
  type Op,
  type OpDefinition,
  type RecordingOpContext,
  type WebGPUOpContext,
} from "./graph/op.ts";
export { attentionOp } from "./graph/ops/attention.ts";
export * as ops from "./graph/ops/index.ts";
export { scaledDotProductAttentionOp } from "./graph/ops/scaled-dot-product-attention.ts";
export { TensorType } from "./graph/tensor-type.ts";
export type { Value } from "./graph/value.ts";
export { matmul } from "./kernels/matmul/kernel.ts";
export { softmax, softmaxInPlace } from "./kernels/softmax/kernel.ts";
export { transpose } from "./kernels/transpose/kernel.ts";
export type { DType, TensorData } from "./tensor/dtype.ts";
export { fromFloat32, type HalfDType, toFloat32 } from "./tensor/half.ts";
export type { Shape } from "./tensor/shape.ts";
export { type Tensor, tensor } from "./tensor/tensor.ts";
