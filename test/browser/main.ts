// Runs compiled suites in headless Chromium:
//
//   node build/test/browser/main.js --report REPORT.json [--grep PATTERN] [--isolated] SUITE.js…

import { writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { build } from "esbuild";
import type { Outcome } from "../run/junit.ts";
import { launchBrowser } from "./launch.ts";
import { serve } from "./serve.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    report: { type: "string" },
    grep: { type: "string", default: "" },
    isolated: { type: "boolean", default: false },
  },
});

const bundle = await build({
  entryPoints: [join(import.meta.dirname, "page.js"), ...positionals],
  outdir: "/",
  entryNames: "[name]",
  bundle: true,
  // The suites share one instance of the library and of node:test's stand-in.
  splitting: true,
  format: "esm",
  platform: "browser",
  target: "chrome147",
  alias: { "node:test": join(import.meta.dirname, "node-test.js") },
  external: ["webgpu", "bun-webgpu", "node:*"],
  write: false,
});
const files = new Map<string, string | Uint8Array>();
for (const { path, contents } of bundle.outputFiles) files.set(path, contents);
files.set("/index.html", "<!doctype html><title>qkv</title>");

const server = await serve(files, values);
const browser = await launchBrowser();
const page = await browser.newPage();
page.on("console", (message) => console.log(message.text()));
page.on("pageerror", (error) => console.log(error.stack));
// A page has no environment: what tells the suites their seed and the like are globals there.
const settings = Object.entries(process.env).filter(([name]) => name.startsWith("QKV_"));
const globals = JSON.stringify(Object.fromEntries(settings));
await page.addInitScript(`Object.assign(globalThis, ${globals});`);
await page.goto(server.url);
if ((await page.evaluate("crossOriginIsolated")) !== values.isolated)
  throw new Error(`a page that is ${values.isolated ? "not " : ""}isolated`);
const suites = positionals.map((file) => `/${basename(file)}`);
const outcome = await page.evaluate<Outcome>(
  `import("/page.js").then((page) => page.runSuites(${JSON.stringify([suites, values.grep]).slice(1, -1)}))`,
);
await browser.close();
server.close();
if (values.report !== undefined) await writeFile(values.report, JSON.stringify(outcome));
process.exitCode = outcome.failed.length > 0 ? 1 : 0;
