// The CPU kernels. Each runs one job: it takes tasks, as other threads do, until none is left.

export { attention } from "./attention/attention";
export { attentionScratch } from "./attention/problem";
export { attentionScores, attentionScoresScratch } from "./attention/scores";
export { matmul } from "./small/matmul";
export { elementwise, permute, softmax, transpose } from "./small/rows";
