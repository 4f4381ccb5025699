import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { LocalCluster } from "../../cli/local_cluster.js";
import { entryPoint } from "../../job/entry_points.js";
import { DEVICE_CHECKS } from "../../worker/check_messages.js";
import { CheckedNode, selfCheckCommand } from "../support/checked_node.js";
import { gokuctl } from "../support/gokuctl.js";

/** A node whose two CUDA devices are emulated is examined: what becomes of bad ones, and how that reaches a person. */
const ADDON = path.resolve(process.env.GOKU_NATIVE!);
process.env.GOKU_NATIVE = ""; // the CPU's own, for what examines the node
process.env.GOKU_NATIVE_CUDA = ADDON;
process.env.GOKU_EMULATED_DEVICES = "2";
process.env.GOKU_EMULATED_MIB = "1024";
const DEVICES = [0, 1].map((index) => ({ name: `emulated ${index}`, memoryBytes: 2 ** 30 }));

/** Ends what hangs; far above what a busy machine takes. */
const LIMIT = { timeout: 300_000 };

const scratch = mkdtempSync(path.join(tmpdir(), "goku-device-checks-"));
after(() => rmSync(scratch, { recursive: true, force: true }));
test(
  "a node is examined first, then each of its devices; one that kills its process fails, the other passes",
  LIMIT,
  async () => {
    const node = new CheckedNode(scratch, { devices: DEVICES });
    node.start(selfCheckCommand(["copy", ...DEVICE_CHECKS]), "selfcheck.device.matrix/1:kill");
    const { results } = await node.reports.next();
    assert.deepEqual(
      results.map(({ name, ok, device }) => `${device?.index ?? "-"} ${device?.name ?? "-"} ${name} ${ok}`),
      [
        "- - copy true",
        ...DEVICE_CHECKS.map((name) => `0 emulated 0 ${name} true`),
        "1 emulated 1 device_memory true",
        "1 emulated 1 device_matrix false",
      ],
      JSON.stringify(results),
    );
    assert.match(
      results.at(-1)!.detail,
      /^its process ended by SIGKILL: failpoint selfcheck\.device\.matrix/,
    );
  },
);

test(
  "a device that hangs in a check, its thread or its whole process, fails at the check's deadline",
  LIMIT,
  async () => {
    for (const action of ["stall", "stop"]) {
      const node = new CheckedNode(scratch, { devices: DEVICES.slice(0, 1), hangMs: 300 });
      node.start(selfCheckCommand(DEVICE_CHECKS), `selfcheck.device.memory:${action}`);
      const { results } = await node.reports.next();
      assert.deepEqual(
        results.map(({ name, ok }) => [name, ok]),
        [["device_memory", false]],
      );
      assert.match(results[0]!.detail, /^its process did not end in \d+ ms and was killed$/);
    }
  },
);

test(
  "a device that does not answer when it is opened, or is not there any more, fails its first check",
  LIMIT,
  async () => {
    const silent = new CheckedNode(scratch, { devices: DEVICES.slice(0, 1), bootMs: 300 });
    silent.start(selfCheckCommand(DEVICE_CHECKS), "selfcheck.device.start:stall");
    const [hung, ...others] = (await silent.reports.next()).results;
    assert.deepEqual([hung!.name, hung!.ok, others.length], ["device_memory", false, 0]);
    assert.equal(hung!.detail, "its process did not end in 300 ms and was killed");

    const lost = new CheckedNode(scratch, { devices: [...DEVICES, { name: "emulated 2", memoryBytes: 1 }] });
    lost.start(selfCheckCommand(["device_copy"]));
    const { results } = await lost.reports.next();
    assert.deepEqual(
      results.map(({ ok, device }) => [device!.index, ok]),
      [
        [0, true],
        [1, true],
        [2, false],
      ],
    );
    assert.equal(
      results[2]!.detail,
      "its process exited with code 1: Cannot examine device 2: CUDA shows it no more",
    );
  },
);

test(
  "a device that has no memory left, as where others use it, fails its first check with that",
  LIMIT,
  async () => {
    process.env.GOKU_EMULATED_MIB = "1";
    try {
      const full = new CheckedNode(scratch, { devices: DEVICES.slice(0, 1) });
      full.start(selfCheckCommand(DEVICE_CHECKS));
      const { results } = await full.reports.next();
      assert.deepEqual([results.length, results[0]!.ok], [1, false]);
      assert.match(
        results[0]!.detail,
        /^its process exited with code 1: .*the device has \d+ of its 1048576 bytes left/,
      );
    } finally {
      process.env.GOKU_EMULATED_MIB = "1024";
    }
  },
);

test(
  "ranks that get a place end the examination of devices as well, to the last process",
  LIMIT,
  async () => {
    const node = new CheckedNode(scratch, { devices: DEVICES });
    const command = selfCheckCommand(DEVICE_CHECKS, { budgetMs: 600_000 });
    node.start(command);
    await new Promise((resolve) => setImmediate(resolve));
    const started = node.records.all().map(({ pid }) => pid);
    assert.equal(started.length, 1 + DEVICES.length);
    node.checker.cancel("ranks get a place here");
    const { checkId, results, busy } = await node.reports.next();
    assert.deepEqual([checkId, results, busy], [command.checkId, [], "ranks get a place here"]);
    while (node.records.all().length > 0) await new Promise((resolve) => setImmediate(resolve));
    for (const pid of started) assert.throws(() => process.kill(pid, 0), { code: "ESRCH" });
  },
);

interface CheckJson {
  name: string;
  device: { index: number; name: string } | null;
  verdict: string;
}
interface NodeJson {
  self_check: string;
  quarantined: boolean;
  checks: CheckJson[];
}

test(
  "gokuctl diagnose names the node and the device that computes wrong bits, and the node is quarantined",
  LIMIT,
  async () => {
    const stateDir = mkdtempSync("/dev/shm/goku-device-checks-");
    const cluster = await LocalCluster.start({ nodes: 0, slotsPerNode: 1, folder: scratch, stateDir });
    const run = (...args: string[]) => gokuctl(["--controller", cluster.controller, ...args]);
    const node = async () => (JSON.parse((await run("nodes", "--json")).stdout).nodes as NodeJson[])[0];
    const args = ["agent", "--controller", cluster.controller, "--node", "node-x", "--state-dir", stateDir];
    const agent = spawn(
      process.execPath,
      [entryPoint("gokuctl"), ...args, "--log-dir", scratch, "--grace", "0"],
      {
        stdio: "ignore",
        env: { ...process.env, GOKU_FAILPOINTS: "selfcheck.device.matrix/1:flip" },
      },
    );
    try {
      let joined = await node();
      while (joined?.self_check !== "failed") joined = await node();
      assert.equal(joined.quarantined, true);
      const { code, stdout } = await run("diagnose");
      assert.equal(code, 32, stdout);
      assert.match(
        stdout,
        /^node-x failed: device_matrix of device 1 \(emulated 1\) failed: round 1, fp32: block 0 of 1 differs/m,
      );
      assert.match(stdout, /^node-x +0: emulated 0( +[\d.]+){5}$/m);
      assert.match(stdout, /^node-x +1: emulated 1 +\d+ +FAILED( +[\d.]+){3}$/m);
      const { checks } = (await node())!;
      assert.deepEqual(
        checks.filter(({ verdict }) => verdict !== "ok").map(({ name, device }) => ({ name, device })),
        [{ name: "device_matrix", device: { index: 1, name: "emulated 1" } }],
      );
      assert.equal(checks.filter(({ device }) => device !== null).length, 2 * DEVICE_CHECKS.length);
      const listed = (await run("nodes")).stdout;
      assert.match(listed, /^node-x +connected, quarantined .* failed: device_matrix of device 1 /m);
      assert.match(listed, /self-check: device_matrix of device 1 \(emulated 1\) failed: /);
    } finally {
      agent.kill("SIGTERM");
      await once(agent, "exit");
      await cluster.stop();
      rmSync(stateDir, { recursive: true, force: true });
    }
  },
);
