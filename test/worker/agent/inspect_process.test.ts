import assert from "node:assert/strict";
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { inspectProcess } from "../../../worker/agent/inspect_process.js";
import { parseDump, parseMaps, plainName } from "../../../worker/agent/thread_stacks.js";
import { STACK_FILE_VARIABLE } from "../../../worker/stack_file.js";

/** A process that hangs as told, and where it tells its stacks. */
async function hanging(
  t: TestContext,
  how: string,
): Promise<{ child: ChildProcess; file: string; folder: string }> {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-stacks-"));
  const file = path.join(folder, "1.stacks");
  const child = fork(new URL("./stack_process.js", import.meta.url), [how], {
    env: { ...process.env, [STACK_FILE_VARIABLE]: file, OMP_NUM_THREADS: "2" },
  });
  t.after(() => {
    child.kill("SIGKILL");
    rmSync(folder, { recursive: true, force: true });
  });
  await once(child, "message");
  return { child, file, folder };
}

test("inspectProcess() shows the JavaScript that a process does not get out of, and leaves the process as it was", async (t) => {
  const { child, file, folder } = await hanging(t, "javascript");
  const lines = await inspectProcess(child.pid!, file);
  assert.match(lines[0]!, /^process \d+: running/);
  assert.ok(
    lines.some((line) => /^ {2}at turnsForEver \(.*stack_process\.js:\d+:\d+\)/.test(line)),
    lines.join("\n"),
  );
  const again = await inspectProcess(child.pid!, file);
  assert.ok(
    again.some((line) => line.includes("turnsForEver")),
    "it went on",
  );
  assert.deepEqual(readdirSync(folder), ["1.stacks"]);
});

test("inspectProcess() shows the native frames of the threads that are in the addon", async (t) => {
  const { child, file } = await hanging(t, "native");
  const isInAddon = (line: string) => /^ {2}goku::\S+ \+0x[0-9a-f]+ \(goku_cpu\.node\)$/.test(line);
  let lines: string[] = [];
  // At first it may still be on its way there.
  do lines = await inspectProcess(child.pid!, file);
  while (!lines.some(isInAddon));
  assert.ok(lines.includes("main thread"), lines.join("\n"));
});

test("inspectProcess() says of a process that was stopped that it was", async (t) => {
  const { child, file } = await hanging(t, "idle");
  child.kill("SIGSTOP");
  let lines: string[] = [];
  do lines = await inspectProcess(child.pid!, file);
  while (!lines[0]!.includes("stopped"));
  assert.deepEqual(
    lines.map((line) => line.replace(/\d+/, "N")),
    ["process N: stopped by a signal"],
  );
});

test("inspectProcess() has nothing to say of a process that is gone", async (t) => {
  const { child, file } = await hanging(t, "idle");
  child.kill("SIGKILL");
  await once(child, "exit");
  assert.deepEqual(await inspectProcess(child.pid!, file), []);
});

test("parseDump() and parseMaps() take what is well formed and leave out the rest", () => {
  assert.deepEqual(parseDump("thread 7 node\n7f00\nzz\nthread 8 a b\nend\n"), [
    { tid: 7, name: "node", addresses: [0x7f00n] },
    { tid: 8, name: "a b", addresses: [] },
  ]);
  assert.deepEqual(parseDump("7f00\n"), []);
  assert.deepEqual(
    parseMaps("00400000-00401000 r-xp 00001000 08:01 12   /usr/bin/a b\n7ff0-7ff1 rw-p 0 00:00 0 [stack]\n"),
    [{ begin: 0x400000n, end: 0x401000n, fileOffset: 0x1000n, file: "/usr/bin/a b" }],
  );
});

test("plainName() gives the scopes and the name of a C++ function", () => {
  assert.equal(plainName("_ZN4goku5Group4waitEd"), "goku::Group::wait");
  assert.equal(plainName("_ZNK4goku12_GLOBAL__N_14Text5writeEv"), "goku::(anonymous)::Text::write");
  assert.equal(plainName("_Z3runi"), "run");
  assert.equal(plainName("main"), "main");
});
