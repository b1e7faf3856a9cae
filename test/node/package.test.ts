import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { assert } from "chai";
import { type BuildOptions, build, transform } from "esbuild";
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import { launchBrowser } from "../browser/launch.ts";
import { serve } from "../browser/serve.ts";

// The package as users get it: packed, installed into an empty project, and used there.

const root = fileURLToPath(new URL("../../../", import.meta.url));

/** Runs a command in a folder, and returns what it printed. */
async function run(cwd: string, file: string, ...args: string[]): Promise<string> {
  try {
    return (await promisify(execFile)(file, args, { cwd, timeout: 120_000 })).stdout;
  } catch (error) {
    // Many tools say on stdout what is wrong; Node's message has stderr only.
    if (error instanceof Error && "stdout" in error) throw new Error(error.message + error.stdout);
    throw error;
  }
}

/** The first ts block of the README. */
async function readmeExample(): Promise<string> {
  const readme = await readFile(join(root, "README.md"), "utf8");
  const [, example] = /^```ts\n(.*?)^```$/ms.exec(readme) ?? [];
  assert(example, "README.md has no ts block");
  return example;
}

describe("package", () => {
  let project: string;
  let installed: string;
  let packed: string[];

  before(async () => {
    project = await mkdtemp(join(tmpdir(), "qkv-package-"));
    installed = join(project, "node_modules/qkv");
    // Without scripts: dist/ is built, and other tests are using it.
    const pack = ["pack", "--json", "--ignore-scripts", "--pack-destination", project];
    const [result] = JSON.parse(await run(root, "npm", ...pack));
    packed = result.files.map(({ path }: { path: string }) => path);
    await writeFile(join(project, "package.json"), '{ "type": "module" }');
    // Nothing is to be downloaded: the package depends on nothing.
    const install = ["install", "--offline", "--no-audit", "--no-fund", result.filename];
    await run(project, "npm", ...install);
  });

  after(() => rm(project, { recursive: true }));

  /** Bundles a module of the project for browsers: all of it, without a warning. */
  async function bundle(source: string): Promise<string> {
    const options = {
      stdin: { contents: source, loader: "ts", resolveDir: project },
      bundle: true,
      format: "esm",
      platform: "browser",
      minify: true,
      metafile: true,
      write: false,
      logLevel: "silent",
    } satisfies BuildOptions;
    const { metafile, outputFiles, warnings } = await build(options);
    assert.deepEqual(warnings, []);
    const left = Object.values(metafile.outputs).flatMap(({ imports }) => imports);
    assert.deepEqual(left, []);
    return outputFiles[0]!.text;
  }

  test("holds the build, its texts and nothing else", () => {
    const others = packed.filter((path) => !path.startsWith("dist/")).sort();
    assert.deepEqual(others, ["CHANGELOG.md", "LICENSE", "README.md", "package.json"]);
  });

  test("brings no other package along", async () => {
    const list = await run(project, "npm", "ls", "--all", "--parseable");
    assert.deepEqual(list.trim().split("\n"), [project, installed]);
  });

  test("has a manifest that publint approves", async () => {
    const { messages, pkg } = await publint({ pkgDir: installed, pack: false });
    assert.deepEqual(
      messages.map((message) => formatMessage(message, pkg ?? {})),
      [],
    );
  });

  test("exports in Node what the sources export", async () => {
    await writeFile(
      join(project, "names.js"),
      'import * as qkv from "qkv"; console.log(JSON.stringify(Object.keys(qkv)));',
    );
    const names = JSON.parse(await run(project, process.execPath, "names.js"));
    assert.deepEqual(names, Object.keys(await import("../../src/index.ts")));
  });

  for (const moduleResolution of ["nodenext", "bundler"])
    test(`has types that resolve with moduleResolution ${moduleResolution}`, async () => {
      await writeFile(join(project, "types.ts"), 'export * from "qkv";');
      const tsc = join(root, "node_modules/typescript/bin/tsc");
      const module = moduleResolution === "bundler" ? "esnext" : moduleResolution;
      const options = ["--module", module, "--moduleResolution", moduleResolution];
      const check = ["--noEmit", "--strict", "--target", "es2022", "--types", "", "types.ts"];
      await run(project, process.execPath, tsc, ...options, ...check);
    });

  test("bundles for browsers", async () => {
    assert.notEqual(await bundle('export * from "qkv";'), "");
  });

  test("lets bundlers drop what is not used", async () => {
    const code = await bundle('export { QkvError } from "qkv";');
    assert.isBelow(code.length, 500);
  });

  test("runs with threads in a page that Vite built", async () => {
    const page = join(project, "page");
    await mkdir(page);
    await writeFile(join(page, "index.html"), '<script type="module" src="/main.ts"></script>');
    const source = `
      import { attention, requestDevice, tensor } from "qkv";
      const device = await requestDevice("cpu", { threads: 2 });
      const rows = tensor(new Float32Array(64 * 1024).fill(1), [1024, 64]);
      const { data } = await attention(rows, rows, rows, { device });
      document.title = device.threads + " threads, " + data.length + " of " + data[0]!.toFixed(5);`;
    await writeFile(join(page, "main.ts"), source);
    const { build: buildPage } = await import("vite");
    const built = await buildPage({
      root: page,
      configFile: false,
      logLevel: "silent",
      build: { write: false },
    });
    const outputs = [built].flat().flatMap((part) => ("output" in part ? part.output : []));
    const files = new Map(
      outputs.map((file) => [`/${file.fileName}`, "code" in file ? file.code : file.source]),
    );
    const server = await serve(files, { isolated: true });
    const browser = await launchBrowser();
    try {
      const tab = await browser.newPage();
      const errors: Error[] = [];
      tab.on("pageerror", (error) => errors.push(error));
      await tab.goto(server.url);
      await tab.waitForFunction("document.title !== ''", undefined, { timeout: 20_000 });
      assert.deepEqual(errors, []);
      assert.equal(await tab.title(), "2 threads, 65536 of 1.00000");
    } finally {
      await browser.close();
      server.close();
    }
  });

  test("runs the command line", async () => {
    assert.match(await run(project, "npx", "--no-install", "qkv", "--help"), /Usage: qkv/);
  });

  describe("README example", () => {
    test("runs in Node without and with a GPU", async () => {
      const { code } = await transform(await readmeExample(), { loader: "ts", format: "esm" });
      await writeFile(join(project, "example.js"), code);
      await run(project, process.execPath, "example.js");
      // The optional peer, as a user would install it.
      const peer = join(project, "node_modules/webgpu");
      await symlink(join(root, "node_modules/webgpu"), peer);
      try {
        await run(project, process.execPath, "example.js");
      } finally {
        await rm(peer);
      }
    });

    test("runs bundled in a browser", async () => {
      const server = await serve(
        new Map([
          ["/index.html", "<!doctype html><title>README example</title>"],
          ["/example.js", await bundle(await readmeExample())],
        ]),
        { isolated: false },
      );
      const browser = await launchBrowser();
      try {
        const page = await browser.newPage();
        await page.goto(server.url);
        await page.evaluate('import("/example.js")');
      } finally {
        await browser.close();
        server.close();
      }
    });
  });
});
