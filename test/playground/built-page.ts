// The built playground in a browser, and what a person does with it.

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { assert } from "chai";
import {
  type Browser,
  type BrowserContextOptions,
  chromium,
  type Locator,
  type Page,
} from "playwright-core";
import { chromium as unpackChromium } from "../../scripts/chromium.mjs";
import { serve } from "../browser/serve.ts";

export const root = fileURLToPath(new URL("../../../", import.meta.url));

/** Serves playground/dist, cross-origin isolated. */
export async function serveBuild(): Promise<{ url: string; close(): void }> {
  const folder = join(root, "playground/dist");
  const files = new Map<string, Uint8Array>();
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) {
      const path = join(entry.parentPath, entry.name);
      files.set(path.slice(folder.length), await readFile(path));
    }
  return serve(files, { isolated: true });
}

/** Starts a headless Chromium whose pages have no WebGPU adapter. */
export async function launchWithoutGPU(): Promise<Browser> {
  const { executable, environment } = await unpackChromium();
  return chromium.launch({
    executablePath: executable,
    env: environment,
    args: ["--no-sandbox", "--disable-gpu"],
  });
}

/** A page, with all that goes wrong on it. */
export interface OpenPage {
  readonly page: Page;
  /** Errors on the console, exceptions, requests that failed or went elsewhere. */
  readonly complaints: string[];
}

/** Opens the playground, and waits until its first section has run. */
export async function openPage(
  browser: Browser,
  url: string,
  options: BrowserContextOptions = {},
): Promise<OpenPage> {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(90_000);
  const complaints: string[] = [];
  page.on("console", (message) => {
    if (message.type() === "error") complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("requestfailed", (request) => complaints.push(`failed: ${request.url()}`));
  page.on("request", (request) => {
    if (!/^(blob|data):/.test(request.url()) && !request.url().startsWith(url))
      complaints.push(`request to ${request.url()}`);
  });
  await page.goto(url);
  await page.getByTestId("steps-summary").waitFor();
  return { page, complaints };
}

/** Goes to a section by its link, and waits until it is there. */
export async function goTo(page: Page, id: string): Promise<Locator> {
  await page.locator(`nav a[href="#${id}"]`).click();
  const section = page.locator(`#${id}`);
  await section.getByRole("heading", { level: 2 }).waitFor();
  return section;
}

const superscripts = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** A number as the page writes it: `−1.2·10⁻⁷`. */
export function parseNumber(text: string): number {
  const plain = text
    .trim()
    .replace(/·10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)/, (_, exponent: string) => `e${exponent}`)
    .replace(/[⁰¹²³⁴⁵⁶⁷⁸⁹]/g, (digit) => String(superscripts.indexOf(digit)))
    .replaceAll(/[−⁻]/g, "-")
    .replace("∞", "Infinity");
  assert.match(plain, /^-?(\d|Infinity)/, `${JSON.stringify(text)} is a number`);
  return Number(plain);
}

/** The number after `before` in an element's text. */
export async function numberAfter(page: Page, testId: string, before: RegExp): Promise<number> {
  const text = await page.getByTestId(testId).innerText();
  const match = new RegExp(`${before.source}\\s*([−\\d.·⁻⁰¹²³⁴⁵⁶⁷⁸⁹∞]+?)\\.?(?=\\s|$)`).exec(text);
  assert(match, `${before} in ${JSON.stringify(text)}`);
  return parseNumber(match[1]!);
}

/** Reads a heatmap with the arrow keys, cell by cell. */
export async function readMatrix(
  page: Page,
  label: RegExp,
  [rows, columns]: readonly [number, number],
): Promise<number[]> {
  const cells = page.getByRole("button", { name: label });
  const readout = cells.locator("xpath=following-sibling::output");
  await cells.focus();
  for (let i = 0; i < rows + columns; i++) await cells.press(i < rows ? "ArrowUp" : "ArrowLeft");
  const values: number[] = [];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const text = await readout.innerText();
      const [, place, value] = /\[(\d+, \d+)\] = (.*)/.exec(text) ?? [];
      assert.equal(place, `${row}, ${column}`, text);
      values.push(parseNumber(value!));
      await cells.press("ArrowRight");
    }
    await cells.press("Home");
    await cells.press("ArrowDown");
  }
  return values;
}

/** Types numbers into an editable heatmap. */
export async function typeMatrix(
  page: Page,
  name: string,
  rows: readonly (readonly number[])[],
): Promise<void> {
  const cells = page.getByRole("button", { name: new RegExp(`^${name}, editable`) });
  for (const [row, values] of rows.entries())
    for (const [column, value] of values.entries()) {
      await cells.focus();
      for (let i = 0; i < rows.length; i++) await cells.press("ArrowUp");
      await cells.press("Home");
      for (let i = 0; i < row; i++) await cells.press("ArrowDown");
      for (let i = 0; i < column; i++) await cells.press("ArrowRight");
      await cells.press("Enter");
      await page.keyboard.type(String(value));
      const field = page.getByLabel(`Value of ${name} at row ${row}, column ${column}`);
      assert.equal(Number(await field.inputValue()), value);
    }
}

/** Asserts something that comes true before long. */
export async function eventually(assertion: () => Promise<void>, seconds = 60): Promise<void> {
  for (const deadline = Date.now() + seconds * 1000; ; ) {
    try {
      return await assertion();
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
  }
}
