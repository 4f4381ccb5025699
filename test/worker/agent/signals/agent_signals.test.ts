import assert from "node:assert/strict";
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { pino } from "pino";
import { stringify } from "yaml";
import { loadAnyJob } from "../../../../job/load_job.js";
import { NO_ACCESS } from "../../../../security/client_access.js";
import { runAgent } from "../../../../worker/agent/run_agent.js";
import { until } from "../../../support/until.js";
import { ScriptedController } from "../scripted_controller.js";

const scratch = mkdtempSync(path.join(tmpdir(), "goku-agent-signals-"));
const memory = mkdtempSync("/dev/shm/goku-agent-signals-");
after(() => {
  rmSync(scratch, { recursive: true, force: true });
  rmSync(memory, { recursive: true, force: true });
});

/** An agent whose machine is a folder; everything ends with the test. */
async function withAgent(
  node: string,
  body: (controller: ScriptedController, machine: string) => Promise<void>,
  prepareMachine: (machine: string) => void = withKernelLog,
): Promise<void> {
  const controller = await ScriptedController.start();
  const machine = path.join(scratch, node);
  mkdirSync(machine);
  prepareMachine(machine);
  const agent = await runAgent(
    {
      controllers: [controller.address],
      node,
      slots: 1,
      host: "127.0.0.1",
      failureDomain: "",
      stateDir: memory,
      logDir: scratch,
      hostRoot: machine,
      metricsHost: "127.0.0.1",
      metricsPort: 0,
      peakTflops: null,
      graceMs: 1_000,
      access: NO_ACCESS,
    },
    pino({ level: process.env.GOKU_LOG_LEVEL ?? "silent" }),
  );
  try {
    await body(controller, machine);
  } finally {
    await agent.close("the end of the test");
    controller.close();
  }
}

const kernelLog = (machine: string) => path.join(machine, "dev/kmsg");

function withKernelLog(machine: string): void {
  mkdirSync(path.dirname(kernelLog(machine)));
  writeFileSync(
    kernelLog(machine),
    "4,1,1,-;NVRM: Xid (PCI:0000:3b:00): 79, of an earlier boot of this agent\n",
  );
}

function put(machine: string, files: Record<string, string | number>): void {
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(path.dirname(path.join(machine, name)), { recursive: true });
    writeFileSync(path.join(machine, name), `${content}\n`);
  }
}

test("agent: tells an Xid of its machine that comes while it lives, once to a controller that was away, too", async () => {
  await withAgent("n-xid", async (controller, machine) => {
    const hello = await controller.hello("n-xid");
    assert.deepEqual(hello.unwatched, []);
    appendFileSync(
      kernelLog(machine),
      "4,2,2,-;NVRM: Xid (PCI:0000:9d:00): 48, pid=77, name=python3, DBE (double bit error) detected\n DEVICE=+pci:0000:9d:00.0\n",
    );
    const { signals, generation } = await controller.next("n-xid", "nodeSignals");
    assert.equal(generation, 0n);
    assert.deepEqual(
      signals.map(({ kind, rank, device, count, text }) => ({ kind, rank, device, count, text })),
      [
        {
          kind: "xid.48",
          rank: undefined,
          device: "0000:9d:00",
          count: 1,
          text: "NVRM: Xid (PCI:0000:9d:00): 48, pid=77, name=python3, DBE (double bit error) detected",
        },
      ],
    );
    // The stream breaks: what the controller may have missed is told again, with the time by which it is known.
    controller.close();
    const next = await ScriptedController.start({ port: controller.port, term: 2n });
    try {
      const again = await next.next("n-xid", "nodeSignals");
      assert.deepEqual(again.signals, signals);
    } finally {
      next.close();
    }
  });
});

test("agent: a machine whose kernel log cannot be read is watched otherwise, and the agent says so", async () => {
  const noLog = (machine: string) =>
    put(machine, {
      "sys/devices/system/edac/mc/mc0/ce_count": 0,
      "sys/devices/system/edac/mc/mc0/ue_count": 3,
    });
  await withAgent(
    "n-blind",
    async (controller, machine) => {
      const { unwatched } = await controller.hello("n-blind");
      assert.equal(unwatched.length, 1);
      assert.match(unwatched[0]!, /^the kernel's log: \/.*\/dev\/kmsg cannot be read \(ENOENT\)/);
      let count = 3; // the agent's first reading is what the later ones are compared with, whenever it is
      const errors = setInterval(() => {
        count += 1;
        put(machine, {
          "sys/devices/system/edac/mc/mc0/ce_count": count,
          "sys/devices/system/edac/mc/mc0/ue_count": count,
        });
      }, 500);
      try {
        const { signals } = await controller.next("n-blind", "nodeSignals");
        assert.deepEqual(
          signals.map(({ kind, device }) => [kind, device]),
          [["counter.memory_uncorrectable", "mc0"]],
        );
        await controller.next("n-blind", "heartbeat", ({ counterRates }) =>
          counterRates.some(({ counter, perMinute }) => counter === "memory_correctable" && perMinute > 0),
        );
      } finally {
        clearInterval(errors);
      }
    },
    noLog,
  );
});

test("agent: what a program wrote, and why the kernel killed it, goes before its end", async () => {
  const pidFile = path.join(scratch, "program.pid");
  const line =
    "n:1:2 [0] ibvwrap.cc:153 NCCL WARN Call to ibv_modify_qp failed with error Connection timed out";
  const text = stringify({
    name: "program",
    trainer: { command: ["/bin/sh", "-c", `echo '${line}' >&2; echo $$ > ${pidFile}; exec sleep 1000`] },
    layout: { dp_replicate: 1, dp_shard: 1, sp: 1 },
  });
  const job = loadAnyJob(text, [], { file: "test job" });
  const node = "n-program";
  await withAgent(node, async (controller, machine) => {
    await controller.hello(node);
    const generation = 1n;
    controller.send(node, {
      $case: "prepare",
      value: {
        generation,
        jobId: "job-1",
        job: job as unknown as { [key: string]: unknown },
        layout: { dpReplicate: 1, dpShard: 1, sp: 1 },
        ranks: [0],
        device: "cpu",
        replicate: false,
        replicas: [],
        keeps: [],
        peerSecret: "s",
        restarts: 0,
        stepHighest: 0n,
        recentSteps: [],
      },
    });
    const { port, pid } = await controller.next(node, "rankReady");
    const endpoints = { nodeId: node, host: "127.0.0.1", ranks: [0], ports: [port], pids: [pid] };
    controller.send(node, {
      $case: "connect",
      value: { generation, nodes: [endpoints], proveStorage: false },
    });
    await controller.next(node, "rankConnected");
    controller.send(node, {
      $case: "restore",
      value: { generation, source: { $case: "initial", value: true }, rollBacks: [] },
    });
    await controller.next(node, "rankRestored");
    controller.send(node, { $case: "run", value: { generation } });

    const wrote = await controller.next(node, "nodeSignals");
    assert.deepEqual(
      [wrote.generation, ...wrote.signals.map(({ kind, rank, text }) => [kind, rank, text])],
      [1n, ["log.ib_call", 0, line]],
    );
    await until(() => {
      try {
        return readFileSync(pidFile, "utf8").endsWith("\n");
      } catch {
        return false;
      }
    });
    const program = Number(readFileSync(pidFile, "utf8"));
    appendFileSync(
      kernelLog(machine),
      `3,3,3,-;Memory cgroup out of memory: Killed process ${program} (sleep) total-vm:1kB, anon-rss:1kB\n`,
    );
    process.kill(program, "SIGKILL");
    await controller.next(node, "rankFailed", ({ error }) => error?.code === "PROGRAM_FAILED");
    const [kill, ...more] = controller.untaken("nodeSignals");
    assert.deepEqual(more, []);
    assert.ok(kill?.$case === "nodeSignals", "told before the end of the rank");
    assert.deepEqual(
      kill.value.signals.map(({ kind, rank }) => [kind, rank]),
      [["kernel.oom_kill", 0]],
    );
  });
});
