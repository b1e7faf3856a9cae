// Stands in for node:test in a page: the part of it that the conformance suites use, with the
// same meaning. test/browser/main.ts bundles the suites with this module in its place.

import type { Outcome } from "../run/junit.ts";

type Hook = () => unknown;
type Body = (context: TestContext) => unknown;

export interface Options {
  skip?: boolean | string;
  timeout?: number;
}

export interface TestContext {
  readonly name: string;
  /** Counts the test as skipped. It goes on, unless it returns. */
  skip(reason?: string): void;
  diagnostic(message: string): void;
}

interface Test {
  title: string;
  options: Options;
  body: Body;
}

interface Suite {
  title: string;
  options: Options;
  before: Hook[];
  after: Hook[];
  beforeEach: Hook[];
  afterEach: Hook[];
  children: (Suite | Test)[];
}

function newSuite(title: string, options: Options): Suite {
  return { title, options, before: [], after: [], beforeEach: [], afterEach: [], children: [] };
}

/** The suite whose body runs: what is declared now belongs to it. */
let current = newSuite("", {});

export function describe(title: string, body: () => void): void;
export function describe(title: string, options: Options, body: () => void): void;
export function describe(title: string, ...rest: [() => void] | [Options, () => void]): void {
  const [options, body] = rest.length === 1 ? [{}, rest[0]] : rest;
  const outer = current;
  current = newSuite(title, options);
  outer.children.push(current);
  try {
    body();
  } finally {
    current = outer;
  }
}

export function test(title: string, body: Body): void;
export function test(title: string, options: Options, body: Body): void;
export function test(title: string, ...rest: [Body] | [Options, Body]): void {
  const [options, body] = rest.length === 1 ? [{}, rest[0]] : rest;
  current.children.push({ title, options, body });
}

export { describe as suite, test as it };

export const before = (hook: Hook) => void current.before.push(hook);
export const after = (hook: Hook) => void current.after.push(hook);
export const beforeEach = (hook: Hook) => void current.beforeEach.push(hook);
export const afterEach = (hook: Hook) => void current.afterEach.push(hook);

/**
 * Runs what was declared since the last call.
 *
 * @param pattern Only the outermost suites and tests with a matching title.
 */
export async function run(pattern: RegExp): Promise<Outcome> {
  const root = current;
  current = newSuite("", {});
  root.children = root.children.filter(({ title }) => pattern.test(title));
  const outcome: Outcome = { passed: 0, skipped: 0, failed: [] };
  await runSuite(root, [], undefined, outcome);
  return outcome;
}

/** @param cancelled Why nothing in here can run: how an outer suite's `before` failed. */
async function runSuite(
  suite: Suite,
  outer: readonly Suite[],
  cancelled: string | undefined,
  outcome: Outcome,
): Promise<void> {
  const path = [...outer, suite];
  const print = printer(outer);
  if (outer.length > 0) print(`▶ ${suite.title}`);
  const active = !suite.options.skip && cancelled === undefined;
  const failure = active ? await failureOf(suite.before) : cancelled;
  for (const child of suite.children) {
    child.options = { ...suite.options, ...child.options };
    if ("children" in child) await runSuite(child, path, failure, outcome);
    else await runTest(child, path, failure, outcome);
  }
  const late = active ? await failureOf(suite.after) : undefined;
  if (late !== undefined) {
    print(`✖ after(): ${late}`);
    outcome.failed.push(`after() of ${suite.title}`);
  }
}

async function runTest(
  { title, options, body }: Test,
  path: readonly Suite[],
  cancelled: string | undefined,
  outcome: Outcome,
): Promise<void> {
  const print = printer(path);
  let skip = options.skip;
  const context: TestContext = {
    name: title,
    skip: (reason) => {
      skip = reason ?? true;
    },
    diagnostic: (message) => print(`ℹ ${message}`),
  };
  const start = performance.now();
  let failure = cancelled;
  if (!skip && cancelled === undefined) {
    const steps = path.flatMap(({ beforeEach }) => beforeEach);
    failure = await failureOf([...steps, () => inTime(() => body(context), options.timeout)]);
    failure ??= await failureOf(path.toReversed().flatMap(({ afterEach }) => afterEach));
  }
  const time = `(${(performance.now() - start).toFixed(1)} ms)`;
  if (failure !== undefined) {
    outcome.failed.push(title);
    print(`✖ ${title} ${time}\n${failure}`);
  } else if (skip) {
    outcome.skipped++;
    print(`﹣ ${title} # ${skip === true ? "skipped" : skip}`);
  } else {
    outcome.passed++;
    print(`✔ ${title} ${time}`);
  }
}

/** Runs `steps` in order up to the first that fails, and says how it failed. */
async function failureOf(steps: readonly Hook[]): Promise<string | undefined> {
  try {
    for (const step of steps) await step();
    return undefined;
  } catch (error) {
    return error instanceof Error ? (error.stack ?? error.message) : String(error);
  }
}

/** Runs `body`, and rejects if that takes longer than `timeout` milliseconds. */
async function inTime(body: () => unknown, timeout: number | undefined): Promise<void> {
  if (timeout === undefined) return void (await body());
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`test timed out after ${timeout} ms`)), timeout);
  });
  try {
    await Promise.race([body(), late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Prints text inside the suites of `path`, the first of which is the file itself. */
function printer(path: readonly Suite[]): (text: string) => void {
  const indent = "  ".repeat(Math.max(path.length - 1, 0));
  return (text) => console.log(text.replace(/^/gm, indent));
}
