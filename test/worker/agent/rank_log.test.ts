import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { LAST_LINES_COUNT, LastLines, LineSplitter, LogFile } from "../../../worker/agent/rank_log.js";

test("LineSplitter joins lines and letters that arrive in pieces", () => {
  const splitter = new LineSplitter();
  const bytes = Buffer.from("erste\nzweite Zeile mit ü\r\nrest");
  const lines: string[] = [];
  for (let i = 0; i < bytes.length; i += 3) lines.push(...splitter.push(bytes.subarray(i, i + 3)));
  assert.deepEqual(lines, ["erste", "zweite Zeile mit ü"]);
  assert.deepEqual(splitter.end(), ["rest"]);
  assert.deepEqual(splitter.end(), []);
});

test("LineSplitter cuts a line that does not end", () => {
  const splitter = new LineSplitter();
  for (let i = 0; i < 100; i++) splitter.push(Buffer.alloc(1000, "x"));
  assert.equal(splitter.push(Buffer.from("\n"))[0]!.length, 4000);
});

test("LastLines keeps the newest lines, oldest first", () => {
  const last = new LastLines();
  for (let i = 0; i < 50; i += 2) last.push([`${i}`, `${i + 1}`]);
  assert.equal(last.all.length, LAST_LINES_COUNT);
  assert.deepEqual([last.all[0], last.all.at(-1)], ["30", "49"]);
});

test("LogFile goes on in a new file when its own was taken away", async () => {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-log-"));
  const log = new LogFile(folder, "ranks.log");
  rmSync(path.join(folder, "ranks.log"), { force: true });
  const line = "x".repeat(4_000);
  for (let i = 0; i < 16 * 2 ** 20; i += line.length) log.write("rank 0", [line]);
  log.write("rank 0", ["after"]);
  await log.close();
  assert.match(readFileSync(path.join(folder, "ranks.log"), "utf8"), /rank 0 after\n/);
  rmSync(folder, { recursive: true });
});
