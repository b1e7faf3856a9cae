import type { Plan } from "./planner.ts";
import type { RecordedTensor } from "./recorder.ts";

/** A step of a plan, as data. */
export interface ExplainedStep {
  /** The op that recorded it. */
  readonly op: string;
  /**
   * The kernel run; `"view"`: a tensor seen under another shape, which costs nothing;
   * or `"cpu"`: the whole op, on the CPU.
   */
  readonly kernel: string;
  readonly variant?: string;
  readonly workgroups?: readonly number[];
  readonly workgroupBytes?: number;
  /** The kernel's text, on WebGPU. {@link formatPlan} leaves it out. */
  readonly wgsl?: string;
  readonly tensors: readonly {
    readonly name: string;
    readonly type: string;
    readonly buffer: number;
  }[];
}

/** A plan as data: what `model.plan()` returns and `model.explain()` prints. */
export interface ExplainedPlan {
  readonly graph: string;
  readonly device: string;
  readonly steps: readonly ExplainedStep[];
  readonly buffers: readonly {
    readonly role: string;
    readonly bytes: number;
    /** The tensors that take turns in it. */
    readonly holds: readonly string[];
  }[];
  /** Bytes of the temporaries, after sharing. */
  readonly temporaryBytes: number;
}

export function explainPlan(plan: Plan, device: string): ExplainedPlan {
  const tensorOf = (name: string, { storage, dtype, shape }: RecordedTensor) => ({
    name,
    type: `${dtype}[${shape.join(", ")}]`,
    buffer: plan.bufferOf.get(storage)!,
  });
  const steps = plan.recording.steps.map((step): ExplainedStep => {
    if (step.kind === "view") {
      const tensors = [tensorOf("from", step.from), tensorOf("to", step.to)];
      return { op: "view", kernel: "view", tensors };
    }
    if (step.kind === "function") {
      const named = [
        ...step.inputs.map((t, i) => tensorOf(`input ${i}`, t)),
        ...step.outputs.map((t, i) => tensorOf(`output ${i}`, t)),
      ];
      return { op: step.op, kernel: "cpu", tensors: named };
    }
    const { variant, workgroups, workgroupBytes, wgsl } = step.launch ?? {};
    return {
      op: step.op,
      kernel: step.kernel.name,
      ...(variant !== undefined && { variant }),
      ...(workgroups && { workgroups }),
      ...(workgroupBytes !== undefined && { workgroupBytes }),
      ...(wgsl !== undefined && { wgsl }),
      tensors: Object.entries(step.tensors).map(([name, tensor]) => tensorOf(name, tensor)),
    };
  });
  const buffers = plan.buffers.map(({ role, bytes, storages }) => ({
    role,
    bytes,
    holds: storages.map(({ name }) => name),
  }));
  const temporaryBytes = buffers.reduce(
    (sum, { role, bytes }) => sum + (role === "temporary" ? bytes : 0),
    0,
  );
  return { graph: plan.name, device, steps, buffers, temporaryBytes };
}

export function formatPlan({
  graph,
  device,
  steps,
  buffers,
  temporaryBytes,
}: ExplainedPlan): string {
  const lines = [`${graph} on ${device}`, "", "steps"];
  steps.forEach(({ op, kernel, variant, workgroups, workgroupBytes, tensors }, index) => {
    const details = [
      variant,
      workgroups && `grid ${workgroups.join("×")}`,
      workgroupBytes && `${workgroupBytes.toLocaleString("en")} B of workgroup memory`,
    ].filter(Boolean);
    const what =
      kernel === op ? kernel : kernel === "cpu" ? `${op} on the CPU` : `${kernel} (of ${op})`;
    const detail = details.length > 0 ? `: ${details.join("; ")}` : "";
    lines.push(`  ${index + 1}. ${what}${detail}`);
    for (const { name, type, buffer } of tensors)
      lines.push(`       ${name.padEnd(10)} ${type.padEnd(26)} buffer ${buffer}`);
  });
  lines.push("", "buffers");
  buffers.forEach(({ role, bytes, holds }, index) => {
    lines.push(
      `  ${String(index).padStart(2)} ${role.padEnd(10)} ${bytes.toLocaleString("en").padStart(14)} B   ${holds.join(", then ")}`,
    );
  });
  lines.push("", `temporaries: ${temporaryBytes.toLocaleString("en")} B`);
  return lines.join("\n");
}
