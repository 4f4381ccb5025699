import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { startTicks } from "../../worker/agent/process_records.js";
import { FakeNvml, healthyGpu, nvidiaDriver, uuidOf } from "../support/fake_nvml.js";
import { gokuctl } from "../support/gokuctl.js";

const stateDir = mkdtempSync(path.join(tmpdir(), "goku-doctor-"));
after(() => rmSync(stateDir, { recursive: true, force: true }));

const alive = JSON.stringify({ pid: process.pid, startTicks: startTicks(process.pid) });
/** Of a process that has ended; its number may be another's by now, its start time is not. */
const gone = JSON.stringify({ pid: spawnSync("true").pid, startTicks: "1" });

function node(name: string, records: { agent: string; rank?: string }): void {
  const folder = path.join(stateDir, name);
  mkdirSync(path.join(folder, "processes"), { recursive: true });
  mkdirSync(path.join(folder, "snapshots/job-1/rank-0.1x1x1.1"), { recursive: true });
  writeFileSync(path.join(folder, "snapshots/job-1/rank-0.1x1x1.1/slot-0"), Buffer.alloc(4096));
  writeFileSync(path.join(folder, "agent.json"), records.agent);
  if (records.rank) writeFileSync(path.join(folder, "processes/7.json"), records.rank);
}

async function snapshots(...args: string[]): Promise<{ state: string; found: string }> {
  const { stdout } = await gokuctl(["doctor", "--json", "--state-dir", stateDir, ...args]);
  return JSON.parse(stdout).findings.find(({ check }: { check: string }) => check === "snapshots");
}

test("doctor: counts orphans and leaves them; --clean removes those whose processes are all gone, and nothing else", async () => {
  node("node-a", { agent: alive });
  node("node-b", { agent: gone });
  node("node-c", { agent: gone, rank: alive });
  node("local/node-d", { agent: gone, rank: gone });
  mkdirSync(path.join(stateDir, "notes"));
  writeFileSync(path.join(stateDir, "notes/mine.txt"), "not ours");

  const before = await snapshots();
  assert.equal(before.state, "warning");
  assert.match(before.found, /2 nodes alive, 2 without a living process \(\d.* KiB\)/);
  assert.ok(existsSync(path.join(stateDir, "node-b")));

  assert.match((await snapshots("--clean")).found, /2 nodes alive, removed .*local\/node-d, .*node-b/);
  const left = ["node-a", "node-b", "node-c", "local", "notes/mine.txt"].map((name) =>
    existsSync(path.join(stateDir, name)),
  );
  assert.deepEqual(left, [true, false, true, false, true]);
  assert.equal((await snapshots()).state, "ok");
});

test("doctor: says whether an agent here could read the kernel's log", async () => {
  const root = mkdtempSync(path.join(tmpdir(), "goku-doctor-root-"));
  const look = async () => {
    const { stdout } = await gokuctl(["doctor", "--json", "--state-dir", stateDir], {
      env: { GOKU_HOST_ROOT: root },
    });
    return JSON.parse(stdout).findings.find(({ check }: { check: string }) => check === "kernel log");
  };
  try {
    const missing = await look();
    assert.equal(missing.state, "warning");
    assert.match(missing.found, /\/dev\/kmsg cannot be read: ENOENT$/);
    mkdirSync(path.join(root, "dev"));
    writeFileSync(path.join(root, "dev/kmsg"), "");
    assert.deepEqual([(await look()).state, (await look()).advice], ["ok", ""]);
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
});

async function telemetry(env: Record<string, string>): Promise<[state: string, found: string]> {
  const { stdout } = await gokuctl(["doctor", "--json", "--state-dir", stateDir], { env });
  const { findings } = JSON.parse(stdout) as { findings: { check: string; state: string; found: string }[] };
  const { state, found } = findings.find(({ check }) => check === "GPU telemetry")!;
  return [state, found];
}

test("doctor: names the GPUs that are in trouble as NVML tells it", async () => {
  const fake = new FakeNvml({ count: 2, ...healthyGpu(0), ...healthyGpu(1) });
  assert.deepEqual(await telemetry(fake.env), ["ok", "NVML tells of 2 GPUs"]);
  fake.tell({ "0.handle": "!15", "1.RemappedRows": "0 1 1 0" });
  assert.deepEqual(await telemetry(fake.env), [
    "warning",
    `NVML tells of 2 GPUs; GPU 0 cannot be reached or must be reset; GPU 1 (${uuidOf(1)}) has a bad row of memory and must be reset`,
  ]);
});

test("doctor: a machine without NVIDIA's driver lacks nothing", { skip: nvidiaDriver }, async () => {
  assert.deepEqual(await telemetry({}), ["ok", "no libnvidia-ml.so.1, which comes with NVIDIA's driver"]);
});
