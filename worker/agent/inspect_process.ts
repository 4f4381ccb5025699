import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { statOf } from "../program/process_stat.js";
import { type StackFiles, stackFiles } from "../stack_file.js";
import { stateText } from "./state_text.js";
import { FrameText, parseDump, parseMaps } from "./thread_stacks.js";

/** A process that hangs answers at once or not at all. */
const PATIENCE_MS = 600;
const LOOK_MS = 20;
const ADDON = "goku_cpu.node";

/**
 * What a process is doing, for people: its state as the kernel sees it, the frames of its main thread and of all threads
 * that are in the addon, and the JavaScript that runs, if any does. It is looked at from outside and asked with a signal, so
 * that it need not be able to answer. Never throws: a process that is gone has no lines.
 */
export async function inspectProcess(pid: number, stackFile: string): Promise<string[]> {
  const files = stackFiles(stackFile);
  try {
    const stat = statOf(pid);
    if (stat === null) return [];
    const state = `process ${pid}: ${stateText(stat)}`;
    if (stat.state === "T" || stat.state === "t") return [state]; // signals wait until it goes on
    const dump = await askForStacks(pid, files);
    const javaScript = readOr(files.javaScript).split("\n").filter(Boolean);
    const native = dump === "" ? ["its threads did not tell where they are"] : threadLines(pid, dump);
    return [state, ...javaScript.map((line) => `  ${line}`), ...native];
  } catch {
    return [];
  } finally {
    for (const file of [files.asked, files.javaScript]) rmSync(file, { force: true });
  }
}

async function askForStacks(pid: number, files: StackFiles): Promise<string> {
  writeFileSync(files.native, "");
  writeFileSync(files.asked, "");
  process.kill(pid, "SIGUSR2");
  const untilMs = performance.now() + PATIENCE_MS;
  let dump = "";
  for (;;) {
    dump = readOr(files.native);
    const isWhole = dump.endsWith("end\n");
    // Where JavaScript runs, that is told a moment later.
    if ((isWhole && readOr(files.javaScript) !== "") || performance.now() >= untilMs) return dump;
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

function threadLines(pid: number, dump: string): string[] {
  const frames = new FrameText(parseMaps(readFileSync(`/proc/${pid}/maps`, "latin1")));
  return parseDump(dump)
    .filter(({ tid, addresses }) => tid === pid || addresses.some((address) => frames.isIn(address, ADDON)))
    .flatMap(({ tid, name, addresses }) => [
      tid === pid ? "main thread" : `thread ${name}`,
      ...withoutRuns(addresses.map((address) => `  ${frames.of(address)}`)),
    ]);
}

/** JavaScript's own frames cannot be told apart here: a row of them is one line. */
function withoutRuns(lines: readonly string[]): string[] {
  return lines.filter(
    (line, i) => !(line.endsWith("(JavaScript)") && lines[i - 1]?.endsWith("(JavaScript)")),
  );
}

function readOr(file: string): string {
  try {
    return readFileSync(file, "latin1");
  } catch {
    return "";
  }
}
