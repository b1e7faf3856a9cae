/** The operations that graphs are built from: `import { ops } from "qkv"`. */

export { custom } from "./custom.ts";
export { add, mul } from "./elementwise.ts";
export { matmul } from "./matmul.ts";
export { reshape } from "./reshape.ts";
export { scaledDotProductAttention } from "./scaled-dot-product-attention.ts";
export { softmax } from "./softmax.ts";
export { transpose } from "./transpose.ts";
