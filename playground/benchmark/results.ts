import type { BenchmarkReply, Engine, Peaks, Row } from "./messages.ts";
import type { SizeSet } from "./sizes.ts";

/** What a benchmark has found so far. */
export interface Results {
  readonly sizes: SizeSet;
  readonly engines: readonly Engine[];
  readonly devices: Partial<Record<Engine, string>>;
  readonly rows: readonly Row[];
  readonly failures: Partial<Record<Engine, string>>;
  readonly peaks: Peaks | undefined;
}

export function noResults(sizes: SizeSet, engines: readonly Engine[]): Results {
  return { sizes, engines, devices: {}, rows: [], failures: {}, peaks: undefined };
}

/** The results with what a message tells. */
export function withReply(results: Results, message: BenchmarkReply): Results {
  switch (message.kind) {
    case "device":
      return {
        ...results,
        devices: { ...results.devices, [message.engine]: message.description },
      };
    case "row":
      return { ...results, rows: [...results.rows, message.row] };
    case "peaks":
      return { ...results, peaks: message.peaks };
    case "failed":
      return { ...results, failures: { ...results.failures, [message.engine]: message.text } };
    case "progress":
    case "done":
      return results;
  }
}

export function rowOf(results: Results, engine: Engine, size: number): Row | undefined {
  return results.rows.find((row) => row.engine === engine && row.size === size);
}
