import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, afterEach, before, describe, test } from "node:test";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import { assert } from "chai";
import type { Browser, Page } from "playwright-core";
import { launchBrowser } from "../browser/launch.ts";
import {
  eventually,
  goTo,
  launchWithoutGPU,
  numberAfter,
  openPage,
  readMatrix,
  root,
  serveBuild,
  typeMatrix,
} from "./built-page.ts";

// The playground as it is built, used as a person uses it, on a software GPU.

const q = [
  [1, -0.5],
  [0.25, 2],
];
const k = [
  [0.5, 1],
  [-1, 0.75],
  [2, -0.25],
];
const v = [
  [1, 10],
  [-2, 20],
  [3, -30],
];

/** softmax(Q·Kᵀ) and softmax(Q·Kᵀ)·V, by the definition. */
function attention() {
  const weights = q.map((query) => {
    const scores = k.map((key) => query.reduce((sum, x, i) => sum + x * key[i]!, 0));
    const exponentials = scores.map((score) => Math.exp(score));
    const sum = exponentials.reduce((a, b) => a + b);
    return exponentials.map((x) => x / sum);
  });
  const output = weights.map((row) =>
    v[0]!.map((_, c) => row.reduce((sum, weight, j) => sum + weight * v[j]![c]!, 0)),
  );
  return { weights: weights.flat(), output: output.flat() };
}

/** The page shows four digits. */
function assertShown(actual: readonly number[], expected: readonly number[]): void {
  assert.equal(actual.length, expected.length);
  for (const [i, value] of actual.entries())
    assert.approximately(value, expected[i]!, 6e-4 * Math.max(1, Math.abs(expected[i]!)), `[${i}]`);
}

async function resize(page: Page, section: string, sizes: Record<string, number>): Promise<void> {
  for (const [label, size] of Object.entries(sizes))
    await page.locator(section).getByLabel(label, { exact: true }).fill(String(size));
}

describe("playground", () => {
  let site: Awaited<ReturnType<typeof serveBuild>>;
  let browser: Browser;
  let page: Page;
  let complaints: string[];

  before(async () => {
    const npm = process.platform === "win32" ? "npm.cmd" : "npm";
    await promisify(execFile)(npm, ["run", "playground:build"], { cwd: root });
    site = await serveBuild();
    browser = await launchBrowser();
  });

  after(async () => {
    await browser?.close();
    site?.close();
  });

  // Whatever a test does, the page has nothing to complain about.
  afterEach(() => assert.deepEqual(complaints, []));

  // One page for all: the sections have nothing to do with each other.
  describe("with WebGPU", () => {
    before(async () => {
      ({ page, complaints } = await openPage(browser, site.url));
    });

    after(() => page.context().close());

    test("says which GPU it runs on", async () => {
      assert.match(await page.getByTestId("device").innerText(), /WebGPU: .*swiftshader/i);
    });

    test("steps: numbers typed in give the weights and the output of the definition", async () => {
      const sizes = { Queries: 2, Keys: 3, Depth: 2, "Value depth": 2 };
      await resize(page, "#steps", sizes);
      await typeMatrix(page, "Q", q);
      await typeMatrix(page, "K", k);
      await typeMatrix(page, "V", v);
      const { weights, output } = attention();
      await eventually(async () =>
        assertShown(await readMatrix(page, /^Step 7: output, 2 by 2/, [2, 2]), output),
      );
      assertShown(await readMatrix(page, /^Step 5: weights, 2 by 3/, [2, 3]), weights);
      assertShown(
        await readMatrix(page, /^Step 2: Kᵀ, 2 by 3/, [2, 3]),
        [0.5, -1, 2, 1, 0.75, -0.25],
      );
      await eventually(async () =>
        assertShown(await readMatrix(page, /^Output, Fused, 2 by 2/, [2, 2]), output),
      );
      assert.isBelow(await numberAfter(page, "steps-summary", /\|Δ\| ≤/), 1e-4);
      await page.getByTestId("fused-difference").waitFor();
      assert.isBelow(await numberAfter(page, "fused-difference", /differ by/), 1e-4);
    });

    test("steps: presets do what they say", async () => {
      await page.getByRole("radio", { name: "One-hot lookup" }).check();
      await eventually(async () => {
        const weights = await readMatrix(page, /^Step 5: weights, 8 by 8/, [8, 8]);
        assert.equal(weights.filter((weight) => weight > 0.99).length, 8);
      });
      await page.getByRole("radio", { name: "Extreme scores" }).check();
      await eventually(async () => {
        const scores = await readMatrix(page, /^Step 3: scores, 8 by 12/, [8, 12]);
        assert.isAbove(Math.max(...scores), 1000);
        const output = await readMatrix(page, /^Step 7: output, 8 by 8/, [8, 8]);
        assert(output.every(Number.isFinite));
      });
    });

    test("steps: a kernel's grid, WGSL and plan are a click away", async () => {
      const strip = page.getByRole("list", { name: "The seven steps" });
      const softmax = strip.getByRole("listitem").nth(4);
      assert.match(await softmax.innerText(), /grid 1×1×1\s+256 lanes/);
      await softmax.getByRole("button", { name: "softmax", exact: true }).click();
      assert.match(
        await page.getByLabel("WGSL of softmax").innerText(),
        /@compute @workgroup_size/,
      );
      const fused = page.getByRole("region", { name: "Fused", exact: true });
      await fused.getByRole("button", { name: "WGSL" }).click();
      assert.match(await page.getByLabel("WGSL, Fused").innerText(), /fn main\(/);
      await fused.getByRole("button", { name: "Show the plan" }).last().click();
      assert.match(
        await page.getByLabel("Plan, Fused").innerText(),
        /attention_decode[\s\S]*temporaries: 0 B/,
      );
    });

    test("tiles: the walk agrees with the kernel, and skips what causal forbids", async () => {
      const tiles = await goTo(page, "tiles");
      await tiles.getByText("The plan for this length is").waitFor();
      const difference = () => numberAfter(page, "tiles-summary", /differ by/);
      await eventually(async () => assert.isBelow(await difference(), 1e-5));
      assert.match(
        await page.getByTestId("tiles-summary").innerText(),
        /8 tiles visited.*4 skipped/,
      );
      assert.match(await tiles.innerText(), /as planned, 16×64/);
      await tiles.getByLabel("causal").uncheck();
      await eventually(async () => {
        assert.match(
          await page.getByTestId("tiles-summary").innerText(),
          /12 tiles visited.*0 skipped/,
        );
        assert.isBelow(await difference(), 1e-5);
      });
      await tiles.getByRole("radio", { name: "8×8" }).check();
      assert.match(await page.getByTestId("tiles-summary").innerText(), /144 tiles visited/);
    });

    test("tiles: plays, pauses, steps and scrubs", async () => {
      const tiles = await goTo(page, "tiles");
      const count = tiles.locator(".frame-count");
      await tiles.getByRole("combobox").selectOption("fast");
      await tiles.getByRole("button", { name: "Play" }).click();
      await eventually(async () => assert.notMatch(await count.innerText(), /^1 \//));
      await tiles.getByRole("button", { name: "Pause" }).click();
      const paused = await count.innerText();
      await page.waitForTimeout(500);
      assert.equal(await count.innerText(), paused);
      await tiles.getByLabel("Step of the animation").fill("1");
      assert.match(await tiles.locator(".tile-numbers").innerText(), /Raise the maximum/);
      await tiles.getByRole("button", { name: "Next step" }).click();
      assert.match(await count.innerText(), /^3 \//);
      assert.match(await tiles.locator(".tile-numbers").innerText(), /Add the tile/);
      await tiles.getByLabel("Step of the animation").press("End");
      assert.match(await tiles.locator(".tile-numbers").innerText(), /Divide by ℓ/);
    });

    test("options: rules remove weights, and the rest adds up to 1", async () => {
      const section = await goTo(page, "options");
      await page.getByTestId("options-summary").waitFor();
      await resize(page, "#options", { Queries: 4, Keys: 5 });
      const shown = async (left: string) =>
        eventually(async () => {
          assert.match(
            await page.getByTestId("options-summary").innerText(),
            new RegExp(`^${left} of 20`),
          );
          assert.isBelow(await numberAfter(page, "options-summary", /float64 by/), 1e-5);
        });
      await shown("10");
      await section.getByLabel("causal").uncheck();
      await shown("20");
      // By hand: key 2 is taken from query 0, then from all queries below in one stroke.
      const head = section.getByRole("button", { name: /^Weights of head 0/ });
      await head.scrollIntoViewIfNeeded();
      const box = (await head.boundingBox())!;
      const at = (row: number, column: number) =>
        [box.x + ((column + 0.5) / 5) * box.width, box.y + ((row + 0.5) / 4) * box.height] as const;
      await page.mouse.move(...at(0, 2));
      await page.mouse.down();
      for (const row of [1, 2, 3]) await page.mouse.move(...at(row, 2));
      await page.mouse.up();
      await shown("16");
      const cells = await headWeights(page, 4, 5);
      for (const row of cells) {
        assert.equal(row[2], 0);
        assert.approximately(
          row.reduce((sum, weight) => sum + weight),
          1,
          1e-3,
        );
      }
      assert.include(await section.getByLabel("The call").innerText(), '"bool"');
      // By keyboard: and back again.
      await head.focus();
      await head.press("Home");
      for (let i = 0; i < 2; i++) await head.press("ArrowRight");
      for (let i = 0; i < 4; i++) await head.press("ArrowUp");
      await head.press("Space");
      await shown("17");
      await section.getByLabel("Softcap").fill("2");
      await eventually(async () =>
        assert.include(await section.getByLabel("The call").innerText(), "softcap: 2"),
      );
      await shown("17");
    });

    test("workshop: a WGSL error is shown at its line, and the mended kernel passes", async () => {
      const section = await openWorkshop(page);
      const starter = await exerciseText("add-one/starter.ts");
      await writeCode(page, starter.replace("input[id.x];", "input[id.x] + nothing;"));
      await run(section);
      const line = starter.split("\n").findIndex((text) => text.includes("TODO")) + 1;
      const problem = section.getByRole("list", { name: "Problems" }).getByRole("listitem");
      assert.match(await problem.innerText(), new RegExp(`^line ${line}\\s.*nothing`));
      assert.equal(await section.locator(".cm-lintRange-error").innerText(), "nothing");

      await writeCode(page, starter.replace("input[id.x];", "input[id.x]"));
      await run(section);
      assert.match(await problem.first().innerText(), /^line \d+/);

      await writeCode(page, starter.replace("infer: ([x])", "infer: ([x)"));
      await run(section);
      const broken = starter.split("\n").findIndex((text) => text.includes("infer:")) + 1;
      assert.match(await problem.innerText(), new RegExp(`^line ${broken}\\s`));

      await writeCode(page, starter.replace("input[id.x];", "input[id.x] + 1.0;"));
      await run(section);
      const summary = await page.getByTestId("workshop-summary").innerText();
      assert.match(summary, /^3 of 3 checks passed.*B\/s/s);
      assert.match(await section.locator(".exercises").innerText(), /✓ Add one/);
    });

    test("workshop: every starter fails its checks, and every solution passes", async () => {
      const section = await openWorkshop(page);
      const exercises = section.locator(".exercises").getByRole("button");
      assert.equal(await exercises.count(), 5);
      for (let i = 0; i < 5; i++) {
        await exercises.nth(i).click();
        await section.getByRole("button", { name: "Start over" }).click();
        await run(section);
        assert.isAbove(await section.getByText("failed:").count(), 0, `starter ${i + 1}`);
        await section.getByRole("button", { name: "Show the solution" }).click();
        await run(section);
        const summary = await page.getByTestId("workshop-summary").innerText();
        assert.match(summary, /^(\d) of \1 checks passed.*(B|FLOP)\/s/s, `solution ${i + 1}`);
        await section.getByRole("button", { name: "Back to my code" }).click();
      }
    });

    test("workshop: a loop without end can be stopped", async () => {
      const section = await openWorkshop(page);
      await writeCode(page, "for (;;) {}");
      await section.getByRole("button", { name: "Run and check" }).click();
      await section.getByRole("status").getByText("Compiling").waitFor();
      await section.getByRole("button", { name: "Stop" }).click();
      await section.getByText("it was stopped").waitFor();
    });

    test("benchmark: times both devices, and tells it as text", async () => {
      const section = await goTo(page, "benchmark");
      await section.getByRole("button", { name: "Start" }).click();
      await section.getByRole("progressbar").waitFor();
      await section.getByRole("button", { name: "Start" }).waitFor();
      const report = await section.getByLabel("Results as text").inputValue();
      assert.equal(report.match(/qkv on the GPU +[\d.]+ (s|ms|µs)/g)?.length, 4);
      assert.equal(report.match(/qkv on the CPU +[\d.]+ (s|ms|µs)/g)?.length, 4);
      assert.match(report, /differs from the CPU by (0|\d\.\d·10⁻[⁶⁷⁸⁹])/);
      assert.match(report, /peaks of the GPU/);
      assert.equal(await section.locator(".roofline .point").count(), 8);
    });

    test("benchmark: can be cancelled", async () => {
      const section = await goTo(page, "benchmark");
      await section.getByRole("radio", { name: "large" }).check();
      await section.getByRole("button", { name: "Start" }).click();
      await section.getByRole("status").getByText("encode 512").waitFor();
      await section.getByRole("button", { name: "Cancel" }).click();
      await section.getByRole("button", { name: "Start" }).waitFor();
      assert.equal(await section.getByRole("progressbar").count(), 0);
    });
  });

  test("fits a phone", async () => {
    const viewport = { width: 390, height: 844 };
    ({ page, complaints } = await openPage(browser, site.url, { viewport, hasTouch: true }));
    const width = await page.evaluate("document.documentElement.scrollWidth");
    assert.isAtMost(Number(width), 390);
    await page.getByRole("button", { name: /^K, editable/ }).tap({ position: { x: 5, y: 5 } });
    await page.getByLabel("Value of K at row 0, column 0").waitFor();
    await page.context().close();
  });

  test("first paints with less than 150 KB of compressed JavaScript", async () => {
    const context = await browser.newContext();
    page = await context.newPage();
    complaints = [];
    const scripts: Promise<Buffer>[] = [];
    page.on("response", (response) => {
      if (new URL(response.url()).pathname.endsWith(".js")) scripts.push(response.body());
    });
    await page.goto(site.url);
    await page.getByTestId("steps-summary").waitFor({ timeout: 90_000 });
    const bytes = (await Promise.all(scripts)).map((body) => gzipSync(body).length);
    assert.isBelow(
      bytes.reduce((sum, length) => sum + length, 0),
      150 * 1024,
    );
  });

  test("works without WebGPU, and says so", async () => {
    const other = await launchWithoutGPU();
    try {
      ({ page, complaints } = await openPage(other, site.url));
      assert.match(await page.getByTestId("device").innerText(), /no WebGPU here.*runs on the CPU/);
      assert.isBelow(await numberAfter(page, "steps-summary", /\|Δ\| ≤/), 1e-5);
      await goTo(page, "options");
      assert.isBelow(await numberAfter(page, "options-summary", /float64 by/), 1e-5);
      await goTo(page, "tiles");
      await eventually(async () =>
        assert.isBelow(await numberAfter(page, "tiles-summary", /differ by/), 1e-5),
      );
      const workshop = await openWorkshop(page);
      await run(workshop);
      assert.match(
        await page.getByTestId("workshop-summary").innerText(),
        /^3 of 3 checks passed\s+on CPU/,
      );
      const benchmark = await goTo(page, "benchmark");
      await benchmark.getByRole("button", { name: "Start" }).click();
      await benchmark.getByRole("button", { name: "Start" }).waitFor();
      const report = await benchmark.getByLabel("Results as text").inputValue();
      assert.equal(report.match(/qkv on the CPU +[\d.]+ (s|ms|µs)/g)?.length, 4);
    } finally {
      await other.close();
    }
  });
});

/** The weights of head 0, row by row; what a rule removed counts as 0. */
async function headWeights(page: Page, rows: number, columns: number): Promise<number[][]> {
  const head = page.getByRole("button", { name: /^Weights of head 0/ });
  const readout = head.locator("xpath=following-sibling::output");
  const result: number[][] = [];
  await head.focus();
  for (let i = 0; i < rows; i++) await head.press("ArrowUp");
  for (let row = 0; row < rows; row++) {
    await head.press("Home");
    const values: number[] = [];
    for (let column = 0; column < columns; column++) {
      const [, place, value] = /\[(\d+, \d+)\] = ([\d.]+)/.exec(await readout.innerText()) ?? [];
      assert.equal(place, `${row}, ${column}`);
      values.push(Number(value));
      await head.press("ArrowRight");
    }
    result.push(values);
    await head.press("ArrowDown");
  }
  return result;
}

async function openWorkshop(page: Page) {
  const section = await goTo(page, "workshop");
  await section.locator(".cm-content").waitFor();
  return section;
}

/** The text of an exercise's file. */
function exerciseText(path: string): Promise<string> {
  return readFile(join(root, "playground/workshop/exercises", path), "utf8");
}

/** Puts code in the place of what the editor holds. */
async function writeCode(page: Page, code: string): Promise<void> {
  await page.locator(".cm-content").click();
  await page.keyboard.press("ControlOrMeta+A");
  await page.keyboard.insertText(code);
}

/** Runs the exercise, and waits until it has ended. */
async function run(section: Awaited<ReturnType<typeof openWorkshop>>): Promise<void> {
  const outcome = section.locator(".run-result, .problems");
  const before = await outcome.elementHandles();
  await section.getByRole("button", { name: "Run and check" }).click();
  for (const element of before) await element.waitForElementState("hidden");
  await outcome.waitFor();
  await section.getByRole("button", { name: "Run and check" }).waitFor();
}
