import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { PeerSecrets } from "../../controller/shell/peer_secrets.js";
import { EmbeddedStore } from "../../controller/store/embedded.js";
import type { Role } from "../../security/principal.js";
import { TestCluster, testJob } from "../faults/cluster.js";
import { credentialsOf, makeCredentials } from "../support/credentials.js";
import { gokuctl } from "../support/gokuctl.js";
import { httpsAsk } from "../support/https_ask.js";

/** A cluster as it would be beyond loopback: TLS everywhere, tokens, and certificates between agents. */
const scratch = mkdtempSync(path.join(tmpdir(), "goku-security-"));
after(() => rmSync(scratch, { recursive: true, force: true }));
const credentials = makeCredentials(path.join(scratch, "certs"));
const { file, tokens, tokenFile } = credentials;
const ca = readFileSync(file("ca.crt"));

/** Everything anybody was told, to look for secrets in it. */
const said: string[] = [];

async function asRole(role: Role | null, ...args: string[]) {
  const env = { GOKU_CA: file("ca.crt"), ...(role ? { GOKU_TOKEN_FILE: tokenFile[role] } : {}) };
  const result = await gokuctl(args, { env });
  said.push(result.stdout, result.stderr);
  return result;
}

async function rest(url: string, role: Role | null, method = "GET") {
  const headers = role ? { authorization: `Bearer ${tokens[role]}` } : {};
  const answer = await httpsAsk(url, { ca, method, headers });
  said.push(answer.body, JSON.stringify(answer.headers));
  return answer;
}

/** Command lines of all processes on this machine that can be read. */
function commandLines(): string {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return pids
    .map((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8");
      } catch {
        return ""; // it has gone
      }
    })
    .join("\n");
}

test("TLS, tokens and certificates: a job trains, loses a node and goes on; each role does its part and no more; no secret is told", async () => {
  const { env, access } = credentialsOf(credentials);
  // Of the agents: the token for the controller, the certificate for each other.
  const agents = { ...env, GOKU_TOKEN_FILE: tokenFile.agent };
  const cluster = await TestCluster.start({ nodes: 3, restart: false, env: agents, access });
  try {
    const { controller, rest: url } = cluster.local;
    const at = ["--controller", controller];
    assert.match(url, /^https:/);

    // Roles, over gRPC.
    const stranger = await asRole(null, "jobs", ...at);
    assert.equal(stranger.code, 10, stranger.stderr);
    assert.match(stranger.stderr, /UNAUTHENTICATED: Cannot list jobs: no token and no certificate/);
    assert.match((await asRole("agent", "jobs", ...at)).stderr, /PERMISSION_DENIED: .*agent, want read/);
    assert.equal((await asRole("read", "jobs", ...at)).code, 0);
    const byCertificate = await gokuctl(["jobs", ...at], {
      env: { GOKU_CA: file("ca.crt"), GOKU_CERT: file("operate.crt"), GOKU_KEY: file("operate.key") },
    });
    assert.equal(byCertificate.code, 0, byCertificate.stderr);
    const plain = await gokuctl(["jobs", ...at]);
    assert.match(plain.stderr, /CONTROLLER_UNREACHABLE: .*--ca where it has TLS/);

    // A job whose agents keep copies of each other's states.
    await cluster.submit(
      await testJob(cluster.folder, ["train.steps=100000", "checkpoint.every_steps=100000"]),
    );
    await cluster.replicated(3);
    await cluster.lose(await cluster.nodeOf(0));
    await cluster.follow(({ events }) => events.some(({ kind }) => kind === "incident"));
    const last = Math.max(...cluster.record.losses.keys());
    await cluster.follow(({ losses }) => losses.has(last + 3));
    const again = cluster.record.steps.find(({ generation }) => generation > 1)!.step;
    assert.ok(again > 3, `begins again at step ${again}, want what the lost node's keeper held`);

    // Roles, over REST.
    const denied = await rest(`${url}/v1/jobs`, null);
    assert.equal(denied.status, 401);
    assert.equal(denied.headers["www-authenticate"], 'Bearer realm="goku"');
    assert.equal(JSON.parse(denied.body).code, "UNAUTHENTICATED");
    const guess = `goku_${"guess".repeat(8)}`;
    const wrong = await httpsAsk(`${url}/v1/jobs`, { ca, headers: { authorization: `Bearer ${guess}` } });
    assert.equal(wrong.status, 401);
    said.push(wrong.body);
    assert.equal((await rest(`${url}/v1/jobs`, "read")).status, 200);
    assert.equal((await rest(`${url}/metrics`, null)).status, 401);
    assert.equal((await rest(`${url}/metrics`, "read")).status, 200);
    assert.equal((await rest(`${url}/healthz`, null)).status, 200);
    assert.equal((await rest(`${url}/readyz`, null)).status, 200);
    assert.equal((await rest(`${url}/v1/jobs/faults/stop`, "read", "POST")).status, 403);

    const refused = await asRole("read", "stop", "faults", ...at);
    assert.equal(refused.code, 10);
    assert.match(refused.stderr, /PERMISSION_DENIED: Cannot stop a job: token "test-read" has the role read/);
    const { job } = await cluster.client.call("getJob", { name: "faults" });
    assert.equal(job?.error, undefined);
    const running = commandLines();
    assert.equal((await asRole("operate", "stop", "faults", ...at)).code, 0);
    await cluster.follow();
    assert.equal(cluster.record.phase, "STOPPED");

    // All of that was told, with who did it.
    const audit = (await asRole("read", "events", "--kind", "audit", "--json", ...at)).stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line).audit);
    const told = audit.map(({ who, via, action, target, outcome }) => [who, via, action, target, outcome]);
    for (const wanted of [
      [null, null, "list jobs", null, "UNAUTHENTICATED"],
      ["test-agent", "token", "list jobs", null, "PERMISSION_DENIED"],
      ["test-operate", "token", "submit a job", "faults", "DONE"],
      ["test-read", "token", "stop a job", null, "PERMISSION_DENIED"],
      ["test-operate", "token", "stop a job", "faults", "DONE"],
    ])
      assert.ok(
        told.some((entry) => `${entry}` === `${wanted}`),
        `${wanted} is not among ${told.join("; ")}`,
      );
    await asRole("read", "events", "--json", ...at);

    await cluster.local.stop();
    const store = await EmbeddedStore.open(path.join(cluster.folder, "store"));
    const peers = new PeerSecrets();
    await peers.load(store);
    await store.close();
    const secrets = [...Object.values(tokens), guess, peers.of(job!.id)];
    const logs = readdirSync(cluster.folder)
      .filter((name) => name.endsWith(".log"))
      .map((name) => readFileSync(path.join(cluster.folder, name), "utf8"));
    assert.ok(logs.length >= 4);
    for (const [index, secret] of secrets.entries())
      for (const text of [...logs, ...said, running])
        assert.ok(!text.includes(secret.slice(5)), `secret ${index} was told: ${text.slice(0, 200)}`);
  } catch (error) {
    (error as Error).message += `\n${cluster.logs}`;
    throw error;
  } finally {
    await cluster.stop();
  }
});
