import type { DeviceTensor } from "qkv";

/** Keeps a tensor until the scope ends. */
export type Keep = <Tensor extends DeviceTensor>(tensor: Tensor) => Tensor;

/** Runs `use`, then gives back the memory of the tensors kept: `using`, for browsers that do not have it. */
export async function inScope<T>(use: (keep: Keep) => Promise<T>): Promise<T> {
  const kept: DeviceTensor[] = [];
  try {
    return await use((tensor) => {
      kept.push(tensor);
      return tensor;
    });
  } finally {
    for (const tensor of kept) tensor.destroy();
  }
}
