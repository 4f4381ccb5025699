import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  appendFileSync,
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { KernelLog } from "../../../../worker/agent/signals/kernel_log.js";

const folder = mkdtempSync(path.join(tmpdir(), "goku-kernel-log-"));
after(() => rmSync(folder, { recursive: true }));

test("KernelLog: tells what is written from its opening on, whole lines alone", () => {
  const file = path.join(folder, "file");
  writeFileSync(file, "4,1,1,-;before\n");
  const log = new KernelLog(file);
  assert.deepEqual(log.read(), []);
  appendFileSync(file, "4,2,2,-;one\n DEVICE=+pci\n4,3,3,-;tw");
  assert.deepEqual(log.read(), ["4,2,2,-;one", " DEVICE=+pci"]);
  appendFileSync(file, "o\n");
  assert.deepEqual(log.read(), ["4,3,3,-;two"]);
  log.close();
});

test("KernelLog: an empty pipe is not waited for, with a writer and without", () => {
  const pipe = path.join(folder, "pipe");
  execFileSync("mkfifo", [pipe]);
  const log = new KernelLog(pipe);
  assert.deepEqual(log.read(), []);
  const writer = openSync(pipe, constants.O_WRONLY);
  assert.deepEqual(log.read(), []);
  writeSync(writer, "4,1,1,-;line\n");
  assert.deepEqual(log.read(), ["4,1,1,-;line"]);
  closeSync(writer);
  assert.deepEqual(log.read(), []);
  log.close();
});

test("KernelLog: a flood is read in parts", () => {
  const file = path.join(folder, "flood");
  writeFileSync(file, "");
  const log = new KernelLog(file);
  const line = `4,1,1,-;${"x".repeat(92)}`; // with its end 101 bytes
  const count = 200_000;
  writeFileSync(file, `${line}\n`.repeat(count));
  const first = log.read().length;
  assert.ok(first > 0 && first < count, `${first}`);
  let total = first;
  for (let more = log.read().length; more > 0; more = log.read().length) total += more;
  assert.equal(total, count);
  log.close();
});

test("KernelLog: one that is not there is refused with the system's error", () => {
  assert.throws(() => new KernelLog(path.join(folder, "none")), { code: "ENOENT" });
});
