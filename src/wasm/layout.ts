// Where a job's parameters lie, in bytes from its start: one list for the kernels (AssemblyScript) and
// for those who call them (TypeScript). Every parameter is one 32-bit word.

/** The next task to take; threads add to it. */
export const nextTask = 0;
/** Number of tasks. */
export const tasks = 4;
/** The words of a job that belong to its kernel begin here. */
export const parameters = 8;

// attention

export const query = 8;
export const key = 12;
export const value = 16;
export const pastKey = 20;
export const pastValue = 24;
export const mask = 28;
export const kvLengths = 32;
export const output = 36;
export const lse = 40;
export const presentKey = 44;
export const presentValue = 48;
/** Results of the parts of a tile's keys, and one count a tile of the parts that are done. */
export const partials = 52;
export const arrivals = 56;
/** 0: float32, 1: float16, 2: bfloat16. */
export const dtype = 60;
/** As `dtype`, and 3: bool, 4: no mask. */
export const maskDType = 64;
export const queryHeads = 68;
export const kvHeads = 72;
export const queries = 76;
export const keys = 80;
export const past = 84;
export const depth = 88;
export const valueDepth = 92;
export const scale = 96;
export const softcap = 100;
/** As `dtype`: what the softmax's input is rounded to. */
export const softmaxDType = 104;
export const causal = 108;
export const windowLeft = 112;
export const windowRight = 116;
export const queryBatchStride = 120;
export const queryHeadStride = 124;
export const queryRowStride = 128;
export const keyBatchStride = 132;
export const keyHeadStride = 136;
export const keyRowStride = 140;
export const valueBatchStride = 144;
export const valueHeadStride = 148;
export const valueRowStride = 152;
export const outputBatchStride = 156;
export const outputHeadStride = 160;
export const outputRowStride = 164;
export const maskBatchStride = 168;
export const maskHeadStride = 172;
export const maskQueryStride = 176;
export const maskKeyStride = 180;
/** Keys that the mask covers. */
export const maskKeys = 184;
/** Query rows of a tile. */
export const tileRows = 188;
/** Tiles of a key/value head. */
export const tilesPerHead = 192;
/** Parts of the keys, and keys of a part. */
export const splits = 196;
export const splitKeys = 200;
/** Keys of a block. */
export const blockKeys = 204;
/** 1: the kernel for few query rows. */
export const decode = 208;
/** The first tasks are attention's; the rest copy one head each of `presentKey` and `presentValue`. */
export const attentionTasks = 212;
export const attentionBytes = 216;

// matmul: output = a · b, one matrix after another

export const matmulA = 8;
export const matmulB = 12;
export const matmulOutput = 16;
export const matmulRows = 20;
export const matmulInner = 24;
export const matmulColumns = 28;
/** Rows and columns of a task, and tasks along each. */
export const matmulTaskRows = 32;
export const matmulTaskColumns = 36;
export const matmulTasksDown = 40;
export const matmulTasksAcross = 44;

// softmax

export const softmaxInput = 8;
export const softmaxOutput = 12;
export const softmaxRows = 16;
export const softmaxColumns = 20;
export const softmaxTaskRows = 24;

// transpose: a task is a strip of 32 rows

export const transposeInput = 8;
export const transposeOutput = 12;
export const transposeRows = 16;
export const transposeColumns = 20;

// permute: four axes of the output, with the input's strides along them; a task is an index of the first
// two

export const permuteInput = 8;
export const permuteOutput = 12;
export const permuteLength1 = 16;
export const permuteLength2 = 20;
export const permuteLength3 = 24;
export const permuteStride0 = 28;
export const permuteStride1 = 32;
export const permuteStride2 = 36;
export const permuteStride3 = 40;

// elementwise, on float32 or, to copy, on bytes

/** 0: a · factor, 1: a · b, 2: a + b, 3: a, by bytes. */
export const elementwiseOperation = 8;
export const elementwiseA = 12;
export const elementwiseB = 16;
export const elementwiseOutput = 20;
export const elementwiseCount = 24;
export const elementwiseFactor = 28;
export const elementwiseTaskCount = 32;
