import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { styleText } from "node:util";

/** Every check of the product, one after another; ends with `N passed, N failed` over all of them. */
interface Tally {
  passed: number;
  failed: number;
  skipped: number;
}
interface Stage {
  name: string;
  run: () => Tally;
}

/** A file that takes longer hangs, and fails; several times what the slowest takes on two busy cores. */
const FILE_LIMIT_MS = 600_000;
const scratch = mkdtempSync(path.join(tmpdir(), "goku-test-"));

/** A tool that passes or fails as one check. */
function tool(name: string, command: string, args: string[]): Stage {
  return {
    name,
    run: () => {
      const done = spawnSync(command, args, { encoding: "utf8" });
      if (done.status === 0 && done.stdout.startsWith("SKIP")) {
        console.log(done.stdout.trim());
        return { passed: 0, failed: 0, skipped: 1 };
      }
      if (done.status === 0) return { passed: 1, failed: 0, skipped: 0 };
      process.stdout.write(
        `${done.stdout ?? ""}${done.stderr ?? ""}${done.error ? `${done.error.message}\n` : ""}`,
      );
      return { passed: 0, failed: 1, skipped: 0 };
    },
  };
}

/** All compiled test files below the folders, in one run of node's test runner; `other`: another addon than the CPU's, and what it is not for. */
function suite(
  name: string,
  folders: string[],
  concurrency: number,
  other?: { addon: string; without: RegExp },
): Stage {
  return {
    name,
    run: () => {
      const files = folders
        .flatMap((folder) => testFiles(path.join("test", folder)))
        .filter((file) => !other?.without.test(file));
      if (files.length === 0) {
        console.log(`Cannot run ${name}: no test file below ${folders.join(", ")}`);
        return { passed: 0, failed: 1, skipped: 0 };
      }
      const report = path.join(scratch, `${name.replaceAll(" ", "-")}.tap`);
      const reporters = [
        "--test-reporter=dot",
        "--test-reporter-destination=stdout",
        "--test-reporter=tap",
        `--test-reporter-destination=${report}`,
      ];
      const done = spawnSync(
        process.execPath,
        [
          "--enable-source-maps",
          "--test",
          `--test-concurrency=${concurrency}`,
          `--test-timeout=${FILE_LIMIT_MS}`,
          ...reporters,
          ...files,
        ],
        {
          stdio: ["ignore", "inherit", "inherit"],
          env: other === undefined ? process.env : { ...process.env, GOKU_NATIVE: other.addon },
        },
      );
      const tap = existsSync(report) ? readFileSync(report, "utf8") : "";
      const count = (word: string) => Number(new RegExp(`^# ${word} (\\d+)$`, "m").exec(tap)?.[1] ?? 0);
      const failed = count("fail") + count("cancelled");
      if (failed > 0 || done.status !== 0) process.stdout.write(failures(tap));
      for (const line of skips(tap)) console.log(line);
      return {
        passed: count("pass"),
        failed: done.status === 0 ? failed : Math.max(1, failed),
        skipped: count("skipped"),
      };
    },
  };
}

/** A line for each reason of a TAP report to leave tests out. */
function skips(tap: string): string[] {
  const byReason = new Map<string, string[]>();
  for (const [, test, reason] of tap.matchAll(/^\s*ok \d+ - (.*) # SKIP ?(.*)$/gm))
    byReason.set(reason!, [...(byReason.get(reason!) ?? []), test!]);
  return [...byReason].map(([reason, tests]) => {
    const what = tests.length === 1 ? tests[0]! : `${tests.length} tests, the first: ${tests[0]}`;
    return `SKIP ${what}${reason ? ` (${reason})` : ""}`;
  });
}

/** The `not ok` blocks of a TAP report, with their evidence. */
function failures(tap: string): string {
  const lines = tap.split("\n");
  const kept: string[] = [];
  let inside = false;
  for (const line of lines) {
    if (/^\s*not ok /.test(line)) inside = true;
    else if (/^\s*(ok |# Subtest)/.test(line)) inside = false;
    if (inside) kept.push(line);
  }
  return `${kept.join("\n")}\n`;
}

/** Compiled tests of the sources below a folder: what was compiled from a source that is gone is not run. */
function testFiles(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".test.ts"))
    .map((file) => path.join("dist", folder, file.replace(/\.ts$/, ".js")))
    .sort();
}

function cppFiles(): string[] {
  return readdirSync("native", { recursive: true, encoding: "utf8" })
    .filter((file) => /\.(cc|cu|h)$/.test(file))
    .map((file) => path.join("native", file));
}

const bin = (name: string) => path.join("node_modules/.bin", name);
const stages: Stage[] = [
  tool("format and lint", bin("biome"), ["check", "--error-on-warnings", "--max-diagnostics=50", "."]),
  tool("C++ format", "clang-format", ["--dry-run", "-Werror", ...cppFiles()]),
  tool("proto lint", bin("buf"), ["lint"]),
  tool("types", bin("tsc"), ["-p", ".", "--noEmit", "--incremental", "false"]),
  tool("types of the page", bin("tsc"), ["-p", "controller/web"]),
  tool("types of its tests", bin("tsc"), ["-p", "test/web", "--noEmit"]),
  suite(
    "unit",
    ["house", "job", "security", "checkpoint", "controller", "worker", "cli", "conformance", "deploy"],
    2,
  ),
  suite("native", ["native"], 1),
  tool("CUDA kernels", "bash", ["scripts/build_cuda.sh", "kernels"]),
  tool("emulated device", "bash", ["scripts/build_cuda.sh", "emulated"]),
  suite("CUDA on it", ["cuda", "native", "parity"], 1, {
    addon: "build/cuda-emulated/Release/goku_cuda_emulated.node",
    without: /collectives_/, // how bytes travel: the same code for both, and device memory is never lent
  }),
  suite("parity", ["parity"], 1),
  suite("simulation", ["sim"], 2),
  suite("faults", ["faults"], 2),
  suite("pace", ["pace"], 1), // compares times
  suite("end to end", ["e2e"], 2),
  suite("web page", ["web"], 2),
];

function main(): void {
  const wanted = process.argv.slice(2);
  const unknown = wanted.filter((name) => !stages.some((stage) => stage.name === name));
  if (unknown.length > 0) {
    console.error(
      `Cannot test "${unknown.join('", "')}": want any of ${stages.map((s) => `"${s.name}"`).join(", ")}`,
    );
    process.exit(2);
  }
  const total: Tally = { passed: 0, failed: 0, skipped: 0 };
  const lines: string[] = [];
  for (const stage of stages.filter((s) => wanted.length === 0 || wanted.includes(s.name))) {
    const started = performance.now();
    process.stdout.write(`${styleText("bold", stage.name)}\n`);
    const tally = stage.run();
    total.passed += tally.passed;
    total.failed += tally.failed;
    total.skipped += tally.skipped;
    const seconds = ((performance.now() - started) / 1000).toFixed(1).padStart(7);
    const skipped = tally.skipped > 0 ? `, ${tally.skipped} skipped` : "";
    const line = `${stage.name.padEnd(18)}${seconds} s  ${tally.passed} passed, ${tally.failed} failed${skipped}`;
    console.log(tally.failed > 0 ? styleText("red", line) : line);
    lines.push(line);
  }
  rmSync(scratch, { recursive: true, force: true });
  console.log(`\n${lines.join("\n")}\n`);
  if (total.skipped > 0) console.log(`${total.skipped} skipped (see SKIP lines above)`);
  console.log(`${total.passed} passed, ${total.failed} failed`);
  process.exitCode = total.failed > 0 ? 1 : 0;
}

main();
