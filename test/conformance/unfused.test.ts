import { before, describe } from "node:test";
import { compileAtOnce } from "../support/compile-at-once.ts";
import { onEachDevice } from "../support/devices.ts";
import { testAttentionCall, testAttentionOp, testAttentionPlans } from "./attention-op.ts";
import { testKernels } from "./kernels.ts";

// The small kernels and the op made of them, on one set of devices: to compile them takes a software GPU
// longer than to run them.

onEachDevice("unfused attention", (device, kind) => {
  before(() => compileAtOnce(device()));
  describe("its kernels", () => testKernels(device, kind));
  describe("the op", () => testAttentionOp(device, kind));
});

describe("unfused attention, planned for any adapter", testAttentionPlans);
describe("attention()", testAttentionCall);
