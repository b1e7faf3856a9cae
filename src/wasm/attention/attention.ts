// The tasks of an attention job: a tile of query rows that share a key/value head, over all of its keys or
// one part of them; and, after those, the copies of one head's past and new keys and values.

import * as at from "../layout";
import { noTask, takeTask } from "../tasks";
import { decodeTile } from "./decode";
import { prefillTile } from "./prefill";
import * as p from "./problem";
import { beginTile, takeSplit } from "./rows";

export function attention(job: usize, scratch: usize, thread: u32): void {
  p.readProblem(job, scratch);
  const attentionTasks = load<u32>(job + at.attentionTasks);
  for (;;) {
    const task = takeTask(job, thread);
    if (task === noTask) return;
    if (task >= attentionTasks) {
      copyHead(task - attentionTasks);
      continue;
    }
    const split = task % p.splits;
    beginTile(task / p.splits);
    if (p.splits > 1) takeSplit(split);
    if (p.decode) decodeTile(split);
    else prefillTile(split);
  }
}

@inline
function word(offset: usize): u32 {
  return load<u32>(p.job + offset);
}

function copyHead(head: u32): void {
  const batch = head / p.kvHeads;
  const inBatch = head % p.kvHeads;
  if (word(at.presentKey))
    copyRows(
      word(at.presentKey),
      p.pastKey,
      p.key,
      head,
      batch * word(at.keyBatchStride) + inBatch * word(at.keyHeadStride),
      word(at.keyRowStride),
      p.depth,
    );
  if (word(at.presentValue))
    copyRows(
      word(at.presentValue),
      p.pastValue,
      p.value,
      head,
      batch * word(at.valueBatchStride) + inBatch * word(at.valueHeadStride),
      word(at.valueRowStride),
      p.valueDepth,
    );
}

function copyRows(
  present: usize,
  past: usize,
  rows: usize,
  head: u32,
  start: u32,
  stride: u32,
  width: u32,
): void {
  let to = present + (<usize>(head * p.keys * width) << p.shift);
  const pastBytes = (p.past * width) << p.shift;
  if (pastBytes) memory.copy(to, past + head * pastBytes, pastBytes);
  to += pastBytes;
  const bytes = width << p.shift;
  let from = rows + (<usize>start << p.shift);
  for (let j = p.past; j < p.keys; j++, to += bytes, from += stride << p.shift)
    memory.copy(to, from, bytes);
}
