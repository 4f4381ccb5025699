import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import pino from "pino";
import { ControllerClient } from "../../cli/client.js";
import { readStore } from "../../cli/read_store.js";
import { runController } from "../../controller/main.js";
import type { GokuError } from "../../job/errors.js";
import { runAgent } from "../../worker/agent/run_agent.js";
import { makeCredentials } from "../support/credentials.js";
import { ETCD_SKIP, EtcdServers } from "../support/etcd_servers.js";
import { gokuctl } from "../support/gokuctl.js";
import { httpsAsk } from "../support/https_ask.js";
import { until } from "../support/until.js";

test("two controllers on etcd: people, programs and agents who know the standby alone reach the leader, whoever that is", {
  timeout: 120_000,
  skip: ETCD_SKIP,
}, async (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-standby-"));
  const memory = mkdtempSync("/dev/shm/goku-standby-");
  t.after(() => {
    for (const one of [folder, memory]) rmSync(one, { recursive: true, force: true });
  });
  const servers = await EtcdServers.start();
  t.after(() => servers.stop());
  const { file, tokens, tokenFile, tokensFile } = makeCredentials(folder);
  const start = async () =>
    runController({
      host: "127.0.0.1",
      port: 0,
      restPort: 0,
      advertise: null,
      cluster: "goku",
      store: await readStore({ store: `etcd://${servers.endpoints.join(",")}/standby` }),
      tls: { cert: file("controller.crt"), key: file("controller.key"), ca: file("ca.crt") },
      tokensFile,
      requestsPerSecond: 1_000,
      kubernetes: null,
    });
  const [leader, standby] = [await start(), await start()];
  t.after(() => standby.close());
  const client = new ControllerClient(standby.grpc, {
    ca: file("ca.crt"),
    cert: null,
    key: null,
    tokenFile: tokenFile.operate,
  });
  t.after(() => client.close());
  const nodes = async () => (await client.call("listNodes", {})).nodes.map(({ nodeId }) => nodeId);
  const ask = (url: string) =>
    httpsAsk(url, { ca: readFileSync(file("ca.crt")), headers: { authorization: `Bearer ${tokens.read}` } });

  // A program: sent to the leader, whose answer it gets there; streams of events, too.
  await until(async () => (await ask(`${standby.rest}/v1/nodes`)).status === 307);
  for (const route of ["/v1/nodes", "/v1/events?follow=false"]) {
    const sent = await ask(`${standby.rest}${route}`);
    assert.deepEqual([sent.status, sent.headers.location], [307, `${leader.rest}${route}`]);
    assert.equal(JSON.parse(sent.body).leader, leader.rest);
    assert.equal((await ask(sent.headers.location as string)).status, 200);
  }
  assert.equal((await ask(`${standby.rest}/readyz`)).status, 503);

  // A person, who names the standby alone.
  const jobs = await gokuctl(["jobs", "--json", "--controller", standby.grpc], {
    env: { GOKU_CA: file("ca.crt"), GOKU_TOKEN_FILE: tokenFile.read },
  });
  assert.deepEqual([jobs.code, JSON.parse(jobs.stdout)], [0, { jobs: [] }], jobs.stderr);

  // An agent, which knows the standby alone, joins the leader, and later the standby that has become it.
  const agent = await runAgent(
    {
      controllers: [standby.grpc],
      node: "a",
      slots: 1,
      host: "127.0.0.1",
      failureDomain: "",
      metricsHost: "127.0.0.1",
      metricsPort: 0,
      peakTflops: null,
      hostRoot: "/no/such/root",
      stateDir: memory,
      logDir: folder,
      graceMs: 1_000,
      access: {
        ca: file("ca.crt"),
        cert: file("agent.crt"),
        key: file("agent.key"),
        tokenFile: tokenFile.agent,
      },
    },
    pino({ level: "silent" }),
  );
  t.after(() => agent.close("the end of the test"));
  await until(async () => (await nodes()).includes("a"));
  await leader.close();
  await until(async () => {
    try {
      return (await nodes()).includes("a");
    } catch (error) {
      // Between two leaders; what comes then, comes with a code that says to try again.
      assert.match((error as GokuError).code, /^(NOT_LEADER|CONTROLLER_UNREACHABLE)$/);
      return false;
    }
  });
  assert.equal((await ask(`${standby.rest}/v1/nodes`)).status, 200);
});
