import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { ControllerClient } from "../../cli/client.js";
import { JobPhase } from "../../gen/goku/v1/controller.pb.js";
import type { GokuError } from "../../job/errors.js";
import { ETCD_SKIP, EtcdServers } from "../support/etcd_servers.js";
import { gokuctl } from "../support/gokuctl.js";
import { until } from "../support/until.js";
import { TestCluster, type TestClusterOptions, testJob } from "./cluster.js";

/** Controllers on etcd itself while a job trains: what they lose costs the training nothing. */
const LIMIT = { timeout: 300_000, skip: ETCD_SKIP };

async function onEtcd(
  { overrides = [], ...options }: TestClusterOptions & { overrides?: string[] },
  body: (cluster: TestCluster, servers: EtcdServers) => Promise<void>,
): Promise<void> {
  const servers = await EtcdServers.start();
  try {
    const store = `etcd://${servers.endpoints.join(",")}/faults`;
    const cluster = await TestCluster.start({ ...options, store });
    try {
      const long = ["train.steps=100000", "checkpoint.every_steps=1000"];
      const job = await testJob(cluster.folder, [...long, ...overrides]);
      await until(() => isTaken(cluster.submit(job)));
      await cluster.follow(({ losses }) => losses.has(5));
      await body(cluster, servers);
    } catch (error) {
      throw new Error(`${(error as Error).stack}\n${cluster.logs}`, { cause: error });
    } finally {
      await cluster.stop();
    }
  } finally {
    await servers.stop();
  }
}

/** On a busy machine a leader may be between two terms. */
async function isTaken(submitted: Promise<void>): Promise<boolean> {
  try {
    await submitted;
    return true;
  } catch (error) {
    if ((error as GokuError).code === "NOT_LEADER") return false;
    throw error;
  }
}

/** Steps of the checkpoints that are committed, as they lie on disk. */
function committedSteps({ folder }: TestCluster): number[] {
  const run = path.join(folder, "run");
  const names = readdirSync(run).filter((name) => existsSync(path.join(run, name, "manifest.json")));
  return names.map((name) => Number(name.replace("checkpoint-", ""))).sort((a, b) => a - b);
}

/** etcd is gone, and the controller leads no more. */
async function loseEtcd(cluster: TestCluster, servers: EtcdServers): Promise<void> {
  await servers.kill(0);
  await until(async () => !(await ready(cluster.local.rest)));
}

async function bringBack(servers: EtcdServers): Promise<void> {
  servers.run(0);
  await servers.ready();
}

const ready = async (rest: string) => (await fetch(`${rest}/readyz`)).status === 200;

/** The job goes on under the controller at that address, which has heard of nothing that broke. Stops it. */
async function assertUndisturbed(
  cluster: TestCluster,
  address: { grpc: string; rest: string },
): Promise<void> {
  const client = new ControllerClient(address.grpc);
  try {
    await until(() => ready(address.rest));
    const before = cluster.stepOnPages;
    const stepOf = async () => Number((await client.call("getJob", { name: "faults" })).job?.step ?? 0n);
    await until(async () => (await stepOf()) > before); // its agents are back
    assert.deepEqual((await client.call("listIncidents", { job: "faults" })).incidents, []);
    await client.call("stopJob", { name: "faults" });
    await until(async () => {
      const { job } = await client.call("getJob", { name: "faults" });
      return job?.phase === JobPhase.STOPPED;
    });
  } finally {
    client.close();
  }
}

test(
  "etcd: an outage longer than the lease: training goes on, the controller says why it waits and comes back by itself",
  LIMIT,
  () =>
    onEtcd({}, async (cluster, servers) => {
      const { rest } = cluster.local;
      process.kill(servers.pid(0), "SIGSTOP");
      await until(async () => !(await ready(rest)));
      const step = cluster.stepOnPages;
      await until(() => cluster.stepOnPages > step + 20);
      await until(async () => {
        const { detail } = (await (await fetch(`${rest}/readyz`)).json()) as { detail?: string };
        return detail?.includes(servers.endpoints[0]!) ?? false;
      });
      assert.match(await (await fetch(`${rest}/metrics`)).text(), /^goku_leader 0$/m);
      process.kill(servers.pid(0), "SIGCONT");
      await assertUndisturbed(cluster, cluster.local.addressOf(0));
      assert.match(cluster.logs, /the store answers again after/);
    }),
);

test(
  "etcd: the leading controller is killed: a standby leads, the agents find it, training goes on",
  LIMIT,
  () =>
    // Started again, the first could win the next election as well.
    onEtcd({ standbys: 1, restart: false }, async (cluster) => {
      const [first, second] = [cluster.local.addressOf(0), cluster.local.addressOf(1)];
      assert.deepEqual([await ready(first.rest), await ready(second.rest)], [true, false]);
      process.kill(cluster.local.pid("controller"), "SIGKILL");
      await assertUndisturbed(cluster, second);
    }),
);

test(
  "etcd: gone while a job trains: questions are answered from memory, checkpoints go on, and all is known when it is back",
  LIMIT,
  () =>
    onEtcd(
      { overrides: ["checkpoint.every_steps=10", "checkpoint.keep_last=1000"] },
      async (cluster, servers) => {
        const { rest, controller } = cluster.local;
        await loseEtcd(cluster, servers);
        const step = cluster.stepOnPages;
        for (const command of ["jobs", "status", "why", "nodes", "logs"]) {
          const { code, stdout, stderr } = await gokuctl([command, "--controller", controller]);
          assert.equal(code, 0, `${command}: ${stderr}`);
          assert.match(
            stderr,
            /^From memory, as of .*: the controller has not reached its store since /,
            command,
          );
          if (command === "status") assert.match(stdout, /RUNNING/);
          if (command === "nodes") assert.match(stdout, /node-a.*node-b/s);
        }
        for (const path of ["/v1/jobs", "/v1/nodes", "/v1/jobs/faults/ranks", "/v1/events?follow=false"]) {
          const { status, headers } = await fetch(`${rest}${path}`);
          assert.deepEqual([status, headers.has("goku-as-of")], [200, true], path);
        }
        assert.match(await (await fetch(`${rest}/metrics`)).text(), /^goku_leader 0$/m);
        const targets = (await (await fetch(`${rest}/v1/prometheus/targets`)).json()) as {
          targets: string[];
        }[];
        const agents = await Promise.all(
          targets.map(async ({ targets: [address] }) => (await fetch(`http://${address}/metrics`)).status),
        );
        assert.deepEqual(agents, [200, 200]);
        const refused = await gokuctl(["stop", "--controller", controller]);
        assert.match(refused.stderr, /NOT_LEADER/);
        assert.notEqual(refused.code, 0);
        await until(() => committedSteps(cluster).filter((made) => made > step + 10).length >= 3);
        assert.equal(await ready(rest), false, "all of that without a leader");
        await bringBack(servers);
        await until(() => ready(rest));
        const made = committedSteps(cluster);
        await until(async () => {
          const { checkpoints } = await cluster.client.call("listCheckpoints", { job: "faults" });
          const known = new Set(checkpoints.map(({ state }) => Number(state!.step)));
          return made.every((one) => known.has(one));
        });
        const last = made.at(-1)!;
        const { steps } = await cluster.follow((record) => record.losses.has(last));
        const told = steps.map(({ step }) => step);
        assert.deepEqual(
          told,
          told.map((_, i) => i + 1),
          "every step once",
        );
        assert.deepEqual([...new Set(steps.map(({ generation }) => generation))], [1]);
        await assertUndisturbed(cluster, cluster.local.addressOf(0));
      },
    ),
);

test(
  "etcd: gone while an agent is asked to end: its ranks' last step is durable, and the job goes on from it when etcd is back",
  LIMIT,
  () =>
    onEtcd({ nodes: 3, restart: false }, async (cluster, servers) => {
      const node = await cluster.nodeOf(3);
      await loseEtcd(cluster, servers);
      process.kill(cluster.local.pid(node), "SIGTERM");
      assert.equal(await cluster.local.ended(node), 0);
      const voted = committedSteps(cluster).at(-1)!;
      await bringBack(servers);
      const { steps } = await cluster.follow((record) => record.steps.at(-1)!.generation > 1);
      assert.deepEqual(
        steps.slice(-1).map(({ step, generation }) => [step, generation]),
        [[voted + 1, 2]],
      );
      const told = steps.map(({ step }) => step);
      assert.deepEqual(
        told,
        told.map((_, i) => i + 1),
        "every step once",
      );
    }),
);
