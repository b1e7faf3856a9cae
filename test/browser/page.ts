// Runs in the page: imports the suites one after another and runs each.

import type { Outcome } from "../run/junit.ts";
import { run } from "./node-test.ts";

/**
 * @param suites The URLs of the compiled test files.
 * @param pattern Only the outermost suites and tests with a matching title.
 */
export async function runSuites(suites: readonly string[], pattern: string): Promise<Outcome> {
  const total: Outcome = { passed: 0, skipped: 0, failed: [] };
  for (const suite of suites)
    try {
      await import(suite);
      const { passed, skipped, failed } = await run(new RegExp(pattern));
      total.passed += passed;
      total.skipped += skipped;
      total.failed.push(...failed);
    } catch (error) {
      total.failed.push(suite);
      console.log(`✖ ${suite}\n${error instanceof Error ? error.stack : error}`);
    }
  return total;
}
