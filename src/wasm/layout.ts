// Where a job's parameters lie, in bytes from its start: one list for the kernels (AssemblyScript) and
// for those who call them (TypeScript). Every parameter is one 32-bit word.

/** Address of the counts of tasks taken: one for each thread's share, each in a cache line of its own. */
export const counts = 0;
/** Number of tasks. */
export const tasks = 4;
/** Number of threads that the tasks are shared out to. */
export const threads = 8;
/** The words of a job that belong to its kernel begin here. */
export const parameters = 12;

/** Bytes from one thread's count to the next. */
export const countStride = 64;

// attention

export const query = 12;
export const key = 16;
export const value = 20;
export const pastKey = 24;
export const pastValue = 28;
export const mask = 32;
export const kvLengths = 36;
export const output = 40;
export const lse = 44;
export const presentKey = 48;
export const presentValue = 52;
/** Results of the parts of a tile's keys, and one count a tile of the parts that are done. */
export const partials = 56;
export const arrivals = 60;
/** 0: float32, 1: float16, 2: bfloat16. */
export const dtype = 64;
/** As `dtype`, and 3: bool, 4: no mask. */
export const maskDType = 68;
export const queryHeads = 72;
export const kvHeads = 76;
export const queries = 80;
export const keys = 84;
export const past = 88;
export const depth = 92;
export const valueDepth = 96;
export const scale = 100;
export const softcap = 104;
/** As `dtype`: what the softmax's input is rounded to. */
export const softmaxDType = 108;
export const causal = 112;
export const windowLeft = 116;
export const windowRight = 120;
export const queryBatchStride = 124;
export const queryHeadStride = 128;
export const queryRowStride = 132;
export const keyBatchStride = 136;
export const keyHeadStride = 140;
export const keyRowStride = 144;
export const valueBatchStride = 148;
export const valueHeadStride = 152;
export const valueRowStride = 156;
export const outputBatchStride = 160;
export const outputHeadStride = 164;
export const outputRowStride = 168;
export const maskBatchStride = 172;
export const maskHeadStride = 176;
export const maskQueryStride = 180;
export const maskKeyStride = 184;
/** Keys that the mask covers. */
export const maskKeys = 188;
/** Query rows of a tile. */
export const tileRows = 192;
/** Tiles of a key/value head. */
export const tilesPerHead = 196;
/** Parts of the keys, and keys of a part. */
export const splits = 200;
export const splitKeys = 204;
/** Keys of a block. */
export const blockKeys = 208;
/** 1: the kernel for few query rows. */
export const decode = 212;
/** The first tasks are attention's; the rest copy one head each of `presentKey` and `presentValue`. */
export const attentionTasks = 216;
/** Key/value heads of a tile: several where decode finds their keys side by side in memory. */
export const tileHeads = 220;

// attentionScores: a job of attention's words, and the matrices that it writes; 0 where one is not wanted

export const scores = 224;
export const softcappedScores = 228;
export const biasedScores = 232;
export const weights = 236;
/** Keys whose scores stay in scratch: all where weights are wanted, else a block. */
export const keptKeys = 240;

// matmul: output = a · b, one matrix after another

export const matmulA = 12;
export const matmulB = 16;
export const matmulOutput = 20;
export const matmulRows = 24;
export const matmulInner = 28;
export const matmulColumns = 32;
/** Rows and columns of a task, and tasks along each. */
export const matmulTaskRows = 36;
export const matmulTaskColumns = 40;
export const matmulTasksDown = 44;
export const matmulTasksAcross = 48;

// softmax

export const softmaxInput = 12;
export const softmaxOutput = 16;
export const softmaxRows = 20;
export const softmaxColumns = 24;
export const softmaxTaskRows = 28;

// transpose: a task is a strip of 32 rows

export const transposeInput = 12;
export const transposeOutput = 16;
export const transposeRows = 20;
export const transposeColumns = 24;

// permute: four axes of the output, with the input's strides along them; a task is an index of the first
// two

export const permuteInput = 12;
export const permuteOutput = 16;
export const permuteLength1 = 20;
export const permuteLength2 = 24;
export const permuteLength3 = 28;
export const permuteStride0 = 32;
export const permuteStride1 = 36;
export const permuteStride2 = 40;
export const permuteStride3 = 44;

// elementwise, on float32 or, to copy, on bytes

/** 0: a · factor, 1: a · b, 2: a + b, 3: a, by bytes. */
export const elementwiseOperation = 12;
export const elementwiseA = 16;
export const elementwiseB = 20;
export const elementwiseOutput = 24;
export const elementwiseCount = 28;
export const elementwiseFactor = 32;
export const elementwiseTaskCount = 36;
