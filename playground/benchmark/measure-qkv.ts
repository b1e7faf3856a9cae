import { type Device, scaledDotProductAttention, tensor } from "qkv";
import { inScope } from "../device/scope.ts";
import type { Inputs } from "./inputs.ts";
import { type Measured, type MeasureOptions, measure } from "./measure.ts";
import type { BenchmarkSize } from "./sizes.ts";

/** Times qkv on a device. */
export function measureQkv(
  device: Device,
  { heads, queries, keys, depth }: BenchmarkSize,
  inputs: Inputs,
  options: MeasureOptions,
): Promise<Measured & { readonly output: Float32Array }> {
  return inScope(async (keep) => {
    const upload = (data: Float32Array, rows: number) =>
      keep(device.upload(tensor(data, [1, rows, heads * depth])));
    const q = upload(inputs.q, queries);
    const k = upload(inputs.k, keys);
    const v = upload(inputs.v, keys);
    const call = () =>
      scaledDotProductAttention(q, k, v, { device, queryHeads: heads, kvHeads: heads });
    const { data } = await keep(await call()).read();
    const measured = await measure(device, async () => (await call()).destroy(), options);
    return { ...measured, output: data as Float32Array };
  });
}
