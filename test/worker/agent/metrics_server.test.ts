import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import http from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { text } from "node:stream/consumers";
import { after, type TestContext, test } from "node:test";
import { MetricsServer, type MetricsServerOptions } from "../../../worker/agent/metrics_server.js";
import { type Credentials, makeCredentials } from "../../support/credentials.js";
import { httpsAsk } from "../../support/https_ask.js";

const folder = mkdtempSync(path.join(tmpdir(), "goku-metrics-server-"));
after(() => rmSync(folder, { recursive: true, force: true }));

async function serve(t: TestContext, options: Partial<MetricsServerOptions> = {}): Promise<string> {
  const server = new MetricsServer({
    host: "127.0.0.1",
    port: 0,
    nodeHost: "10.0.0.7",
    tls: null,
    metrics: { contentType: "text/plain; version=0.0.4", render: async () => "goku_node_slots 2\n" },
    onBadCertificate: (error) => assert.fail(error),
    onError: (error) => assert.fail(error),
    ...options,
  });
  t.after(() => server.close());
  return await server.start();
}

async function ask(
  url: string,
  options: http.RequestOptions = {},
): Promise<{ status: number; body: string }> {
  const response = await new Promise<http.IncomingMessage>((resolve, reject) => {
    http
      .request(url, { agent: false, ...options }, resolve)
      .on("error", reject)
      .end();
  });
  return { status: response.statusCode!, body: await text(response) };
}

test("MetricsServer answers on loopback, to requests for loopback, and to no page of a browser", async (t) => {
  const url = await serve(t);
  assert.match(url, /^http:\/\/127\.0\.0\.1:\d+\/metrics$/);
  assert.deepEqual(await ask(url), { status: 200, body: "goku_node_slots 2\n" });
  assert.equal((await ask(url.replace("/metrics", "/"))).status, 404);
  assert.equal((await ask(url, { method: "POST" })).status, 404);
  const rebound = await ask(url, { headers: { host: "evil.example:80" } });
  assert.deepEqual([rebound.status, /evil\.example/.test(rebound.body)], [403, true]);
  assert.equal((await ask(url, { headers: { origin: "https://evil.example" } })).status, 403);
});

test("MetricsServer with a certificate wants one with a role that may look", async (t) => {
  const credentials = makeCredentials(path.join(folder, "ours"));
  const [ca, cert, key] = ["ca.crt", "agent.crt", "agent.key"].map((name) => credentials.file(name));
  const url = await serve(t, { tls: { ca: ca!, cert: cert!, key: key! } });
  assert.match(url, /^https:/);
  // As Prometheus does: the CA is checked, and the one name that all agents' certificates have.
  const trust = { ca: readFileSync(ca!), servername: "goku-agent" };
  const as = (from: Credentials, name: string) => {
    const [own, secret] = ["crt", "key"].map((end) => readFileSync(from.file(`${name}.${end}`)));
    return httpsAsk(url, { ...trust, cert: own!, key: secret! });
  };
  assert.equal((await as(credentials, "read")).status, 200);
  assert.equal((await as(credentials, "operate")).status, 200);
  const refused = await as(credentials, "agent");
  assert.deepEqual([refused.status, /want O=goku:read/.test(refused.body)], [403, true]);
  await assert.rejects(httpsAsk(url, trust), "no certificate");
  await assert.rejects(as(makeCredentials(path.join(folder, "another")), "read"), "of another CA");
});

test("MetricsServer names the node's address where it listens on all, and a port that is taken", async (t) => {
  const url = await serve(t, { host: "0.0.0.0" });
  assert.match(url, /^http:\/\/10\.0\.0\.7:\d+\/metrics$/);
  const port = Number(new URL(url).port);
  await assert.rejects(serve(t, { port }), {
    code: "PORT_IN_USE",
    message: new RegExp(`Cannot listen for metrics on 127\\.0\\.0\\.1:${port}: .*EADDRINUSE.*--metrics-port`),
  });
});

test("a scrape that fails is said to have failed", async (t) => {
  const render = () => Promise.reject(new Error("no such page"));
  const url = await serve(t, { metrics: { contentType: "text/plain", render } });
  const { status, body } = await ask(url);
  assert.deepEqual([status, body], [500, "Cannot show metrics: no such page\n"]);
});

test("an error of the server once it listens is told, as often as there is one, and ends nothing", async (t) => {
  const create = t.mock.method(http, "createServer");
  const told: string[] = [];
  const url = await serve(t, { onError: ({ message }) => told.push(message) });
  // As Node tells an accept that fails, for example without a free descriptor.
  const server = create.mock.calls[0]!.result as http.Server;
  for (const text of ["accept EMFILE", "accept ENFILE"]) server.emit("error", new Error(text));
  assert.deepEqual(told, ["accept EMFILE", "accept ENFILE"]);
  assert.equal((await ask(url)).status, 200);
});
