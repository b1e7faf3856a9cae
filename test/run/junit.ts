import { readFile } from "node:fs/promises";
import { XMLParser } from "fast-xml-parser";

/** How tests ended. */
export interface Outcome {
  passed: number;
  skipped: number;
  /** The titles of those that failed. */
  failed: string[];
}

interface Suite {
  testsuite?: Suite[];
  testcase?: { name: string; failure?: unknown; error?: unknown; skipped?: unknown }[];
}

const parser = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: "",
  isArray: (name) => name === "testsuite" || name === "testcase",
});

/** Reads a JUnit report, the one format that Node, Deno and Bun all write. */
export async function readJUnit(path: string): Promise<Outcome> {
  const report = parser.parse(await readFile(path, "utf8")) as { testsuites: Suite };
  const cases = testcases(report.testsuites);
  // Deno lists a describe() as a case too, beside its own, "title > test".
  const parents = new Set(cases.map(({ name }) => name.split(" > ").slice(0, -1).join(" > ")));
  const outcome: Outcome = { passed: 0, skipped: 0, failed: [] };
  for (const { name, failure, error, skipped } of cases.filter(({ name }) => !parents.has(name)))
    if (failure !== undefined || error !== undefined) outcome.failed.push(name);
    else if (skipped !== undefined) outcome.skipped++;
    else outcome.passed++;
  return outcome;
}

function testcases(suite: Suite): NonNullable<Suite["testcase"]> {
  return [...(suite.testcase ?? []), ...(suite.testsuite ?? []).flatMap(testcases)];
}
