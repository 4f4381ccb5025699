import assert from "node:assert/strict";
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { type CommandJob, commandJobSchema } from "../../job/command_job.js";
import { FakeNvml, healthyGpu, uuidOf } from "../support/fake_nvml.js";
import { gokuctl } from "../support/gokuctl.js";
import { until } from "../support/until.js";
import { TestCluster, type TestClusterOptions, testJob } from "./cluster.js";

const scratch = mkdtempSync(path.join(tmpdir(), "goku-signals-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

/** A cluster each of whose nodes has a folder for a machine: what a test writes there, its agent reads. */
async function withMachines(
  { env, ...options }: Omit<TestClusterOptions, "env"> & { env?: (node: string) => Record<string, string> },
  body: (cluster: TestCluster, kernelSays: (node: string, line: string) => void) => Promise<void>,
): Promise<void> {
  const machines = mkdtempSync(path.join(scratch, "machines-"));
  const kernelLog = (member: string) => path.join(machines, member, "dev/kmsg");
  const placeOf = (member: string) => {
    mkdirSync(path.dirname(kernelLog(member)), { recursive: true });
    if (!existsSync(kernelLog(member))) writeFileSync(kernelLog(member), "");
    return {
      host: "127.0.0.1",
      enter: [],
      env: { ...env?.(member), GOKU_HOST_ROOT: path.join(machines, member) },
    };
  };
  const cluster = await TestCluster.start({ ...options, placeOf });
  try {
    await body(cluster, (node, line) => appendFileSync(kernelLog(node), `4,9,9,-;${line}\n`));
  } catch (error) {
    throw new Error(`${(error as Error).stack}\n${cluster.logs}`);
  } finally {
    await cluster.stop();
  }
}

async function ask(cluster: TestCluster, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await gokuctl([...args, "--controller", cluster.local.controller]);
  assert.equal(code, 0, stderr);
  return stdout;
}

test("faults: a GPU falls off the bus of a node: it is named and quarantined, the job goes on on a spare, to its last step", {
  timeout: 300_000,
}, async () => {
  await withMachines({ nodes: 3 }, async (cluster, kernelSays) => {
    const job = await testJob(cluster.folder, ["train.steps=40"]);
    await cluster.submit(job);
    await cluster.follow(({ losses }) => losses.has(8));
    const node = await cluster.nodeOf(2);
    kernelSays(
      node,
      "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
    );
    await cluster.follow(({ steps }) => steps.some(({ generation }) => generation > 1));

    const { incidents } = await cluster.client.call("listIncidents", { job: job.name });
    assert.deepEqual(
      incidents.map(({ code, rank, nodeId }) => [code, rank, nodeId]),
      [["HARDWARE_FAULT", undefined, node]],
    );
    const { job: status } = await cluster.client.call("getJob", { name: job.name });
    assert.ok(!status!.rankNodes.includes(node), `${status!.rankNodes}`);
    const nodes = await ask(cluster, "nodes");
    assert.match(nodes, new RegExp(`^${node} +connected, quarantined `, "m"));
    assert.match(nodes, new RegExp(`^${node} is quarantined: the kernel's log, xid\\.79 0000:3b:00: `, "m"));
    assert.match(
      nodes,
      new RegExp(`^${node} told at .*: xid\\.79 0000:3b:00: the GPU has fallen off the bus`, "m"),
    );
    const why = await ask(cluster, "why", job.name);
    assert.match(why, /^what +node-\w: the kernel's log, xid\.79 0000:3b:00: NVRM: Xid .*79/m);
    const metrics = await (await fetch(`${cluster.local.rest}/metrics`)).text();
    assert.match(metrics, /^goku_signals_total{class="gpu_fault",cause="machine"} 1$/m);
    assert.match(metrics, /^goku_detections_total{job="[^"]+",source="signal"} 1$/m);

    const { phase, losses } = await cluster.follow();
    assert.equal(phase, "COMPLETED");
    assert.deepEqual(
      [...losses.keys()].sort((a, b) => a - b),
      Array.from({ length: 40 }, (_, i) => i + 1),
    );
  });
});

test("faults: a GPU of a node holds an error that it could not correct, as NVML counts it: the node is named, and its ranks go to a spare", {
  timeout: 300_000,
}, async () => {
  const gpus = new Map<string, FakeNvml>();
  const env = (node: string): Record<string, string> => {
    if (!/^node-/.test(node)) return {};
    const fake = gpus.get(node) ?? new FakeNvml({ count: 2, ...healthyGpu(0), ...healthyGpu(1) });
    gpus.set(node, fake);
    return fake.env;
  };
  await withMachines({ nodes: 3, env }, async (cluster) => {
    const job = await testJob(cluster.folder, ["train.steps=100000"]);
    await cluster.submit(job);
    await cluster.follow(({ losses }) => losses.has(8));
    const targets = (await (await fetch(`${cluster.local.rest}/v1/prometheus/targets`)).json()) as {
      targets: [string];
      labels: { node: string };
    }[];
    const metricsOf = async (node: string) => {
      const { targets: addresses } = targets.find(({ labels }) => labels.node === node)!;
      return await (await fetch(`http://${addresses[0]}/metrics`)).text();
    };
    const node = await cluster.nodeOf(2);
    const errors = `goku_gpu_ecc_errors_total{gpu="1",uuid="${uuidOf(1)}",kind="uncorrected"}`;
    await until(async () => (await metricsOf(node)).includes(`${errors} 0`)); // what is there before is no news
    gpus.get(node)!.tell({ "1.TotalEccErrors.1": 1 });
    await cluster.follow(({ steps }) => steps.some(({ generation }) => generation > 1));

    const { job: status } = await cluster.client.call("getJob", { name: job.name });
    assert.ok(!status!.rankNodes.includes(node), `${status!.rankNodes}`);
    const { incidents } = await cluster.client.call("listIncidents", { job: job.name });
    assert.deepEqual(
      incidents.map(({ code, nodeId }) => [code, nodeId]),
      [["HARDWARE_FAULT", node]],
    );
    const device = `GPU 1 \\(${uuidOf(1)}\\)`;
    const told = `${node} told at .*: counter\\.gpu_ecc_uncorrected ${device}: a GPU's memory held an error`;
    assert.match(await ask(cluster, "nodes"), new RegExp(`^${told}`, "m"));
    const why = await ask(cluster, "why", job.name);
    assert.match(
      why,
      new RegExp(`${node}: its counters, counter\\.gpu_ecc_uncorrected ${device}: grew by 1`),
    );
    assert.ok((await metricsOf(node)).includes(`${errors} 1`));
    await cluster.client.call("stopJob", { name: job.name });
    const { phase } = await cluster.follow();
    assert.equal(phase, "STOPPED");
  });
});

/** Fails once as a Python program does, then ends well. */
const PROGRAM = `
if [ -e ended ]; then exit 0; fi
touch ended
echo "Traceback (most recent call last):" >&2
echo "  File \\"/app/train.py\\", line 81, in <module>" >&2
echo "ValueError: shapes (4, 8) and (9,) not aligned" >&2
exit 1
`;

test("faults: what a program wrote before its end explains it in gokuctl why, and its node is not blamed", {
  timeout: 300_000,
}, async () => {
  await withMachines({ nodes: 1, slots: 1 }, async (cluster) => {
    const cwd = mkdtempSync(path.join(scratch, "program-"));
    const job: CommandJob = commandJobSchema.parse({
      name: "program",
      trainer: { command: ["/bin/sh", "-c", PROGRAM], cwd },
      layout: { dp_replicate: 1, dp_shard: 1, sp: 1 },
    });
    await cluster.submit(job);
    const { phase } = await cluster.follow();
    assert.equal(phase, "COMPLETED");
    const why = await ask(cluster, "why", job.name);
    assert.match(why, /^code +PROGRAM_FAILED$/m);
    assert.match(
      why,
      /^what +rank 0 on node-a: PROGRAM_FAILED .*: it wrote "ValueError: shapes \(4, 8\) and \(9,\) not aligned"$/m,
    );
    assert.match(
      why,
      /^ {2}-\d+\.\d{3} s {2}rank 0 on node-a: its output, log\.python_error: ValueError: shapes \(4, 8\) and \(9,\) not aligned \(an error/m,
    );
  });
});
