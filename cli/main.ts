import { readFileSync } from "node:fs";
import { styleText } from "node:util";
import { Command } from "commander";
import { demoCommand } from "./demo.ts";
import { devicesCommand } from "./devices.ts";
import { exitStatus, oneLine, reportError } from "./error.ts";
import { explainCommand } from "./explain.ts";
import { runCommand } from "./run.ts";

const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));

/** What is being done, for error messages. */
let running = "qkv";

const program = new Command("qkv")
  .description("Attention on WebGPU, and on the CPU.")
  .version(version, "-v, --version", "print the version")
  .addHelpText(
    "after",
    `
Examples:
  qkv demo                                           see what attention does, step by step
  qkv run q.npy k.npy v.npy --out out.npy --check    compute it, for your own arrays
  qkv devices                                        find out what this machine offers
  qkv explain --keys 1000003 --depth 64              see what would run

Exit status:
  0  it worked
  1  it failed: a result outside the tolerance, a bad file, no such device
  2  the command line is wrong

Environment:
  NO_COLOR=1             print no colours
  QKV_DEBUG=1            show where in the code an error comes from
  QKV_REQUIRE_WEBGPU=1   let "qkv demo" fail where there is no WebGPU
  QKV_DAWN_FLAGS="…"     flags for Dawn, in place of qkv's own`,
  );

for (const command of [demoCommand(), runCommand(), devicesCommand(), explainCommand()])
  program.addCommand(command);

for (const command of [program, ...program.commands]) {
  const name = command === program ? "qkv" : `qkv ${command.name()}`;
  command
    .exitOverride()
    .helpOption("-h, --help", "show this help")
    .configureHelp({ styleTitle: (title) => styleText("bold", title) })
    .configureOutput({
      // A suggestion comes on a second line.
      outputError: (text, write) => write(`${name}: ${oneLine(text.replace(/^error: /, ""))}\n`),
    })
    .hook("preAction", () => {
      running = name;
    });
}
program.helpCommand("help [command]", "show the help of a command");

// Whoever reads the output may stop early, as `head` does.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  process.exit(error.code === "EPIPE" ? exitStatus.success : exitStatus.failure);
});

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = reportError(running, error);
}
