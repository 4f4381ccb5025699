import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { ERRORS } from "../../../job/errors.js";
import { ControlPage } from "../../../worker/agent/control_page.js";
import { type PageContent, ProgressReader } from "../../../worker/agent/progress_reader.js";
import { COLLECTIVE, CONTROL, PAGE_BYTES, PROGRESS } from "../../../worker/pages.js";
import { mainThreadOf } from "../../../worker/program/process_stat.js";
import { Progress } from "../../../worker/progress.js";
import { until } from "../../support/until.js";

function withFolder(body: (folder: string) => void): void {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-pages-"));
  try {
    body(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test("ControlPage writes generation, culprit and reason where ranks read them, and never goes back", () => {
  withFolder((folder) => {
    const file = path.join(folder, "control");
    const page = new ControlPage(file);
    page.abort(7n, { peer: 3, code: "RANK_DIED" });
    page.abort(6n, { peer: 1, code: "COMM_ABORTED" });
    page.close();
    const bytes = readFileSync(file);
    assert.equal(bytes.length, PAGE_BYTES);
    assert.equal(bytes.readBigUInt64LE(CONTROL.abortGeneration), 7n);
    assert.equal(bytes.readInt32LE(CONTROL.abortPeer), 3);
    assert.equal(bytes.readUInt32LE(CONTROL.abortReason), ERRORS.RANK_DIED.number);
  });
});

test("ProgressReader shows what Progress and the collectives write, and since when nothing changed", () => {
  withFolder((folder) => {
    const file = path.join(folder, "progress");
    const bytes = new Uint8Array(PAGE_BYTES);
    const view = new DataView(bytes.buffer);
    const flush = () => writeFileSync(file, bytes);
    new Progress(bytes).set({ generation: 4n, step: 11, microStep: 2, phase: "backward", layer: 3 });
    view.setBigUint64(PROGRESS.changedMs, 1_000n, true);
    view.setBigUint64(PROGRESS.collectiveEntered, 9n, true);
    view.setBigUint64(PROGRESS.collectiveCompleted, 8n, true);
    view.setUint32(PROGRESS.collectiveKind, COLLECTIVE.reduceScatter, true);
    bytes.set(Buffer.from("shard.0"), PROGRESS.collectiveGroupName);
    flush();
    const reader = new ProgressReader(file);
    const read = (nowMs: bigint) => reader.read({ rank: 5, pid: 77 }, nowMs);
    assert.deepEqual(read(1_200n), {
      rank: 5,
      pid: 77,
      generation: 4n,
      step: 11n,
      microStep: 2,
      phase: "backward",
      layer: 3,
      collectiveEntered: 9n,
      collectiveCompleted: 8n,
      collective: "reduce_scatter",
      group: "shard.0",
      times: { steps: 0n, work: 0n, forwardUs: 0n, backwardUs: 0n, optimizerUs: 0n, dataUs: 0n, waitUs: 0n },
      unchangedMs: 0n,
      blockedMs: 0n,
    });
    assert.equal(read(1_300n).unchangedMs, 100n, "since it was first seen like this");
    view.setBigUint64(PROGRESS.collectiveCompleted, 9n, true);
    flush();
    reader.watch(1_400n);
    assert.equal(read(1_450n).unchangedMs, 50n, "a collective ended, which was seen in between");
    view.setBigUint64(PROGRESS.changedMs, 1_460n, true);
    flush();
    assert.equal(read(1_500n).unchangedMs, 0n, "the rank stamped a sign of life");
    view.setBigUint64(PROGRESS.forwardUs, 7n, true);
    flush();
    assert.equal(read(1_600n).unchangedMs, 100n, "sums are no sign of life");
    reader.close();
  });
});

test("ProgressReader counts only time in which it looked: an agent that was not run has not seen its ranks stand still", () => {
  withFolder((folder) => {
    const file = path.join(folder, "progress");
    writeFileSync(file, new Uint8Array(PAGE_BYTES).fill(1));
    const reader = new ProgressReader(file);
    const read = (nowMs: bigint) => reader.read({ rank: 0, pid: 1 }, nowMs).unchangedMs;
    read(0n);
    for (let nowMs = 100n; nowMs <= 1_000n; nowMs += 100n) reader.watch(nowMs);
    assert.equal(read(1_000n), 1_000n);
    assert.equal(read(61_000n), 1_250n, "its machine was frozen for a minute");
    for (let nowMs = 61_400n; nowMs <= 65_000n; nowMs += 400n) reader.watch(nowMs);
    assert.equal(read(65_000n), 3_750n, "on a starved machine its own looks come late");
    reader.close();
  });
});

test("ProgressReader tells for how long the thread behind a page that stands still has been stopped or asleep", async () => {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-pages-"));
  const file = path.join(folder, "progress");
  writeFileSync(file, new Uint8Array(PAGE_BYTES).fill(1));
  const reader = new ProgressReader(file);
  const sleeper = spawn("cat", [], { stdio: ["pipe", "pipe", "inherit"] });
  const worker = spawn(process.execPath, ["-e", "for (;;);"], { stdio: ["ignore", "ignore", "inherit"] });
  const hasState = (pid: number, state: string) => until(() => mainThreadOf(pid)?.state === state);
  let nowMs = 0n;
  const after = (ms: bigint, pid: number) => {
    for (const endMs = nowMs + ms; nowMs < endMs; nowMs += 100n) reader.watch(nowMs + 100n);
    return reader.read({ rank: 0, pid }, nowMs).blockedMs;
  };
  try {
    const asleep = sleeper.pid!;
    sleeper.stdin.write("it has begun");
    await once(sleeper.stdout, "data");
    await hasState(asleep, "S");
    assert.equal(after(900n, asleep), 0n, "too soon to look");
    assert.equal(after(1_000n, asleep), 0n, "the first look");
    assert.equal(after(2_000n, asleep), 2_000n);
    writeFileSync(file, new Uint8Array(PAGE_BYTES).fill(2));
    assert.equal(after(1_500n, asleep), 0n, "the page moved: what was before that is over");
    assert.equal(after(500n, asleep), 500n);
    reader.begin();
    assert.equal(after(1_500n, asleep), 0n, "it was given something to do");
    assert.equal(after(500n, asleep), 500n);

    const { pid } = worker as { pid: number };
    const ranTicks = () => mainThreadOf(pid)!.ranTicks;
    const stop = async () => {
      worker.kill("SIGSTOP");
      await hasState(pid, "T");
    };
    await until(() => ranTicks() > 0);
    assert.equal(after(1_000n, pid), 0n, "it works");
    await stop();
    after(1_000n, pid);
    assert.equal(after(3_000n, pid), 3_000n, "it is stopped");
    const before = ranTicks();
    worker.kill("SIGCONT");
    await until(() => ranTicks() > before);
    await stop();
    assert.equal(after(1_000n, pid), 0n, "it worked between two looks");
    assert.equal(after(1_000n, 2 ** 30), 0n, "a process that is gone");
  } finally {
    for (const child of [sleeper, worker]) child.kill("SIGKILL");
    reader.close();
    rmSync(folder, { recursive: true });
  }
});

test("Progress knows the longest time between two signs of life, and forgets it once told", async () => {
  const bytes = new Uint8Array(PAGE_BYTES);
  const view = new DataView(bytes.buffer);
  const progress = new Progress(bytes);
  const stamp = () => view.getBigUint64(PROGRESS.changedMs, true);
  const spent: bigint[] = [];
  progress.set({ phase: "data" });
  progress.takePauseSeconds();
  for (const act of [
    () => progress.alive(),
    () => progress.set({ layer: 1 }),
    () => progress.set({ layer: 2 }),
  ]) {
    const before = stamp();
    await new Promise((resolve) => setTimeout(resolve, 10));
    act();
    spent.push(stamp() - before);
  }
  const longest = spent.reduce((a, b) => (b > a ? b : a));
  assert.ok(longest >= 9n);
  assert.equal(progress.takePauseSeconds(), Number(longest) / 1000);
  assert.equal(progress.takePauseSeconds(), 0);
});

test("Progress shows the newest whole snapshot and how many failed, across generations, and neither is a sign of life", () => {
  withFolder((folder) => {
    const file = path.join(folder, "progress");
    const bytes = new Uint8Array(PAGE_BYTES);
    const progress = new Progress(bytes);
    writeFileSync(file, bytes);
    const reader = new ProgressReader(file);
    const look = (nowMs: bigint) => {
      writeFileSync(file, bytes);
      const { unchangedMs } = reader.read({ rank: 0, pid: 1 }, nowMs);
      return { unchangedMs, ...reader.unsent!.snapshots };
    };
    assert.deepEqual(look(1_000n), { unchangedMs: 0n, step: 0n, unixMs: 0n, failed: 0n });
    const beganMs = BigInt(Date.now());
    progress.snapshotMade(7);
    progress.snapshotFailed();
    const { unixMs, ...made } = look(1_100n);
    assert.deepEqual(made, { unchangedMs: 100n, step: 7n, failed: 1n });
    assert.ok(unixMs >= beganMs && unixMs <= BigInt(Date.now()), `${unixMs}`);
    progress.set({ generation: 2n });
    progress.snapshotFailed();
    assert.deepEqual(look(1_200n), { unchangedMs: 0n, step: 7n, unixMs, failed: 2n });
    reader.close();
  });
});

test("Progress sums what steps took from the beginning of the generation, without rounding them one by one", () => {
  withFolder((folder) => {
    const file = path.join(folder, "progress");
    const bytes = new Uint8Array(PAGE_BYTES);
    const progress = new Progress(bytes);
    const took = {
      work: 1_600_000,
      forwardSeconds: 0.0000016,
      backwardSeconds: 0.002,
      optimizerSeconds: 0.001,
      dataSeconds: 0.5,
      waitSeconds: 0.25,
      waits: { allGather: 0.1, reduceScatter: 0.05, allReduce: 0, allToAll: 0.02, vote: 0.08 },
    };
    let waits: PageContent["waitUs"] | null = null;
    const read = () => {
      writeFileSync(file, bytes);
      const reader = new ProgressReader(file);
      const { times } = reader.read({ rank: 0, pid: 1 }, 0n);
      waits = reader.unsent?.waitUs ?? null;
      reader.close();
      return times;
    };
    progress.set({ generation: 4n });
    progress.stepped(took);
    progress.stepped(took);
    assert.deepEqual(read(), {
      steps: 2n,
      work: 3n,
      forwardUs: 3n,
      backwardUs: 4_000n,
      optimizerUs: 2_000n,
      dataUs: 1_000_000n,
      waitUs: 500_000n,
    });
    assert.deepEqual(waits, {
      allGather: 200_000n,
      reduceScatter: 100_000n,
      allReduce: 0n,
      allToAll: 40_000n,
      vote: 160_000n,
    });
    progress.set({ phase: "forward" });
    assert.equal(read()?.steps, 2n);
    progress.set({ generation: 5n });
    assert.deepEqual([read()?.steps, read()?.backwardUs], [0n, 0n]);
  });
});
