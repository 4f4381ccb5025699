import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import pino from "pino";
import { ControllerClient } from "../../../cli/client.js";
import { runController } from "../../../controller/main.js";
import { NO_ACCESS } from "../../../security/client_access.js";
import { createToken } from "../../../security/tokens.js";
import { runAgent } from "../../../worker/agent/run_agent.js";

const scratch = mkdtempSync(path.join(tmpdir(), "goku-join-"));
const memory = mkdtempSync("/dev/shm/goku-join-");
after(() => {
  for (const folder of [scratch, memory]) rmSync(folder, { recursive: true, force: true });
});

test("an agent whose token is refused says why, once, and joins when its file holds a good one; a person's token is none", async () => {
  const [agentToken, person] = [createToken("nodes", "agent"), createToken("alice", "operate")];
  const file = (name: string, text: string) => {
    writeFileSync(path.join(scratch, name), text);
    return path.join(scratch, name);
  };
  const controller = await runController({
    host: "127.0.0.1",
    port: 0,
    restPort: 0,
    advertise: null,
    store: { kind: "embedded", folder: path.join(scratch, "store") },
    tls: null,
    tokensFile: file("tokens", `${agentToken.line}\n${person.line}\n`),
    cluster: "goku",
    requestsPerSecond: 1_000,
    kubernetes: null,
  });
  const said: { reason?: string; level: number }[] = [];
  const log = pino({ level: "debug" }, { write: (line: string) => void said.push(JSON.parse(line)) });
  const tokenFile = file("token", person.token);
  const agent = await runAgent(
    {
      controllers: [controller.grpc],
      node: "late",
      slots: 1,
      host: "127.0.0.1",
      failureDomain: "",
      stateDir: memory,
      logDir: scratch,
      metricsHost: "127.0.0.1",
      metricsPort: 0,
      peakTflops: null,
      hostRoot: "/no/such/root",
      graceMs: 1_000,
      access: { ...NO_ACCESS, tokenFile },
    },
    log,
  );
  const joined = path.join(memory, "late/joined");
  const access = { ...NO_ACCESS, tokenFile: file("alice", person.token) };
  const client = new ControllerClient(controller.grpc, access);
  try {
    const events = async () => {
      const seen = [];
      for await (const event of client.events({ job: "", afterId: 0n, follow: false })) seen.push(event);
      return seen;
    };
    while (!said.some(({ reason }) => reason?.includes("PERMISSION_DENIED")))
      await new Promise((resolve) => setTimeout(resolve, 10));
    assert.ok((await events()).some(({ audit }) => audit?.outcome === "PERMISSION_DENIED"));
    assert.deepEqual((await client.call("listNodes", {})).nodes, []);
    assert.ok(!existsSync(joined), "refused: not Ready for a kubelet");
    file("token", agentToken.token);
    for (let isIn = false; !isIn; ) {
      isIn = (await client.call("listNodes", {})).nodes.some(({ nodeId }) => nodeId === "late");
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    assert.ok(existsSync(joined), "joined: Ready");
    const warnings = said.filter(({ level, reason }) => level >= 40 && reason !== undefined);
    assert.equal(warnings.length, 1, JSON.stringify(warnings));
    assert.match(
      warnings[0]!.reason!,
      /Cannot speak for a node: token "alice" has the role operate, want agent/,
    );
    const text = JSON.stringify(said);
    for (const { token } of [agentToken, person]) assert.ok(!text.includes(token.slice(5)));
  } finally {
    client.close();
    await agent.close("the end of the test");
    await controller.close();
  }
  assert.ok(!existsSync(joined));
});
