import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { get, type IncomingMessage } from "node:http";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { text } from "node:stream/consumers";
import { after, test } from "node:test";
import type { RouteOptions } from "fastify";
import type { ControllerApi } from "../../../controller/api/controller_api.js";
import type { GuardOptions } from "../../../controller/api/guard.js";
import { Operations } from "../../../controller/api/operations.js";
import type { PageFile } from "../../../controller/api/page_routes.js";
import { requirePermission } from "../../../controller/api/rest_guard.js";
import { type RestOptions, restServer } from "../../../controller/api/rest_server.js";
import { JobStatus } from "../../../gen/goku/v1/controller.pb.js";
import { readTlsFiles } from "../../../security/tls_files.js";
import { TokenTable } from "../../../security/tokens.js";
import { makeCredentials } from "../../support/credentials.js";
import { testGuard } from "../../support/guards.js";
import { httpsAsk } from "../../support/https_ask.js";

const scratch = mkdtempSync(path.join(tmpdir(), "goku-rest-"));
after(() => rmSync(scratch, { recursive: true, force: true }));
const ours = makeCredentials(path.join(scratch, "ours"));
const theirs = makeCredentials(path.join(scratch, "theirs"));
const table = TokenTable.parse(readFileSync(ours.tokensFile, "utf8"), "tokens");
const bearer = (role: "read" | "operate" | "agent") => ({ authorization: `Bearer ${ours.tokens[role]}` });

const PAGE: PageFile = {
  ...{ type: "text/html", body: Buffer.from("page"), gzipped: Buffer.from("page") },
  ...{ etag: '"1"', isNamedByContent: false },
};

/** `asked` tells what came past the guard. */
async function server(
  t: { after: (end: () => Promise<void>) => void },
  guardOptions: Partial<GuardOptions> = {},
  restOptions: Partial<RestOptions> = {},
) {
  const asked: string[] = [];
  const api = {
    listJobs: () => [],
    stopJob: async (name: string) => {
      asked.push(`stop ${name}`);
      return JobStatus.fromPartial({ name });
    },
    requireKnowledge: () => {},
    asOf: () => null,
    onOtherLeads: () => () => {},
    pastEvents: () => [],
    onEvent: () => () => {},
    isReady: () => true,
  } as unknown as ControllerApi;
  const { guard, told } = testGuard({ tokens: () => table, ...guardOptions });
  const operations = new Operations(api, (entry) => told.push(entry));
  const metrics = { contentType: "text/plain", render: async () => "goku_up 1\n" };
  const app = await restServer({
    api,
    operations,
    guard,
    metrics,
    version: "0.1.0",
    cluster: "goku",
    page: new Map([["/", PAGE]]),
    tls: null,
    ...restOptions,
  });
  t.after(() => app.close());
  return { app, asked, told, guard };
}

test("REST: probes and the page itself are open to anybody, all else needs a role; problems say what was found and wanted", async (t) => {
  const { app, asked, told } = await server(t);
  const cases: [string, object, number][] = [
    ["GET /healthz", {}, 200],
    ["GET /readyz", {}, 200],
    ["GET /", {}, 200],
    ["GET /v1/me", {}, 401],
    ["GET /v1/jobs/shapes/ranks", {}, 401],
    ["POST /v1/nodes/a/drain", bearer("read"), 403],
    ["GET /metrics", {}, 401],
    ["GET /v1/jobs", {}, 401],
    ["HEAD /v1/jobs", {}, 401],
    ["GET /openapi.json", {}, 401],
    ["GET /nothing", {}, 401],
    ["POST /v1/jobs/shapes/stop", {}, 401],
    ["POST /v1/jobs/shapes/stop", { authorization: "Bearer goku_wrong" }, 401],
    ["POST /v1/jobs/shapes/stop", { authorization: "Basic YTpi" }, 401],
    ["POST /v1/jobs/shapes/stop", bearer("read"), 403],
    ["POST /v1/jobs/shapes/stop", bearer("agent"), 403],
    ["GET /v1/jobs", bearer("agent"), 403],
    ["GET /metrics", bearer("read"), 200],
    ["GET /v1/jobs", bearer("read"), 200],
    ["GET /nothing", bearer("read"), 404],
    ["POST /v1/jobs/shapes/stop", bearer("operate"), 202],
  ];
  for (const [request, headers, status] of cases) {
    const [method, url] = request.split(" ") as ["GET", string];
    const answer = await app.inject({ method, url, headers: headers as Record<string, string> });
    assert.equal(answer.statusCode, status, `${request} ${JSON.stringify(headers)}: ${answer.body}`);
  }
  assert.deepEqual(asked, ["stop shapes"]);
  assert.equal(told.length, 15);
  const me = await app.inject({ url: "/v1/me", headers: bearer("read") });
  assert.equal(me.json().role, "read");
  assert.equal(told.at(-1)!.outcome, "DONE");
  const denied = await app.inject({ method: "POST", url: "/v1/jobs/shapes/stop", headers: bearer("read") });
  const { code, detail, status } = denied.json();
  assert.deepEqual([code, status], ["PERMISSION_DENIED", 403]);
  assert.match(detail, /Cannot stop a job: token "test-read" has the role read, want operate/);
});

test("REST: a body is not read before its sender was let in, and never beyond the limit", async (t) => {
  const { app } = await server(t);
  const send = (headers: object) =>
    app.inject({
      method: "POST",
      url: "/v1/jobs",
      headers: headers as Record<string, string>,
      payload: { job: { name: "x".repeat(300_000) } },
    });
  assert.equal((await send({})).statusCode, 401);
  assert.equal((await send(bearer("operate"))).statusCode, 400);
});

test("REST: beyond its rate a token hears 429 and when to come again", async (t) => {
  const { app } = await server(t, { requestsPerSecond: 1 });
  const ask = () => app.inject({ url: "/v1/jobs", headers: bearer("read") });
  for (let i = 0; i < 3; i++) assert.equal((await ask()).statusCode, 200);
  const answer = await ask();
  assert.equal(answer.statusCode, 429);
  assert.equal(answer.headers["retry-after"], "1");
  assert.equal(answer.json().code, "RATE_LIMITED");
});

test("REST: an open controller answers no page of another site, under whatever name that leads here", async (t) => {
  const { app, asked } = await server(t, { tokens: () => null });
  const post = async (headers: Record<string, string>) =>
    (await app.inject({ method: "POST", url: "/v1/jobs/shapes/stop", headers })).statusCode;
  assert.equal(await post({ host: "127.0.0.1:7080", origin: "https://evil.example" }), 403);
  assert.equal(await post({ host: "127.0.0.1:7080", origin: "null" }), 403);
  assert.equal(await post({ host: "127.0.0.1:7080", origin: "http://evil.example/127.0.0.1:7080" }), 403);
  assert.equal(await post({ host: "evil.example:7080", origin: "http://evil.example:7080" }), 403);
  assert.equal(await post({ host: "evil.example" }), 403);
  assert.deepEqual(asked, []);
  assert.equal(await post({ host: "127.0.0.1:7080" }), 202);
  assert.equal(await post({ host: "localhost:7080", origin: "http://localhost:7080" }), 202);
  assert.equal(await post({ host: "[::1]:7080" }), 202);
});

test("REST over TLS: a certificate of the CA is as good as a token; one of another CA is none", async (t) => {
  const tls = readTlsFiles({
    cert: ours.file("controller.crt"),
    key: ours.file("controller.key"),
    ca: ours.file("ca.crt"),
  });
  const { app, told } = await server(t, { certificates: true }, { tls });
  const url = await app.listen({ host: "127.0.0.1", port: 0 });
  const ca = readFileSync(ours.file("ca.crt"));
  const as = (of: typeof ours, name: string) => ({
    cert: readFileSync(of.file(`${name}.crt`)),
    key: readFileSync(of.file(`${name}.key`)),
  });
  const stop = async (options: object) =>
    (await httpsAsk(`${url}/v1/jobs/shapes/stop`, { ca, method: "POST", ...options })).status;
  assert.equal(await stop({}), 401);
  assert.equal(await stop(as(ours, "operate")), 202);
  assert.equal(await stop(as(ours, "agent")), 403);
  assert.equal(await stop(as(theirs, "operate")), 401);
  assert.equal(await stop({ headers: bearer("operate") }), 202);
  // What a browser would do for any page, with the certificate of its user.
  assert.equal(await stop({ ...as(ours, "operate"), headers: { origin: "https://evil.example" } }), 403);
  await assert.rejects(httpsAsk(`${url}/healthz`, {}), /self-signed|unable to verify/);
  await assert.rejects(httpsAsk(`${url}/healthz`, { ca, maxVersion: "TLSv1.2" }), /protocol version/);
  assert.deepEqual(
    told.filter(({ outcome }) => outcome === "DONE").map(({ who, via }) => [who, via]),
    [
      ["goku-operate", "certificate"],
      ["test-operate", "token"],
    ],
  );
});

test("REST: who sends his request drop by drop is cut off, and holds no connection", async (t) => {
  const limits = { headersMs: 100, requestMs: 200, connectionsMax: 10 };
  const { app } = await server(t, {}, { limits });
  const { port } = new URL(await app.listen({ host: "127.0.0.1", port: 0 }));
  for (const begun of [
    "GET /healthz HTTP/1.1\r\nhost: a\r\n",
    "POST /v1/jobs HTTP/1.1\r\ncontent-length: 9\r\n",
  ]) {
    const socket = connect(Number(port), "127.0.0.1");
    socket.write(begun);
    assert.match(await text(socket), /^HTTP\/1.1 408/);
  }
});

test("REST: event streams of a token are counted; the next hears 429 until one has ended", async (t) => {
  const { app } = await server(t);
  const url = await app.listen({ host: "127.0.0.1", port: 0 });
  const follow = () =>
    new Promise<IncomingMessage>((resolve, reject) =>
      get(`${url}/v1/events`, { agent: false, headers: bearer("read") }, resolve).on("error", reject),
    );
  const open = await Promise.all(Array.from({ length: 32 }, follow));
  assert.ok(open.every(({ statusCode }) => statusCode === 200));
  const refused = await follow();
  assert.equal(refused.statusCode, 429);
  assert.equal(refused.headers["retry-after"], "5");
  assert.match(await text(refused), /test-read has 32 open/);
  open[0]!.destroy();
  // The server hears of the end a moment later.
  let next = await follow();
  while (next.statusCode !== 200) next = await follow();
  for (const response of [...open, next]) response.destroy();
});

test("REST: an event stream ends with its token", async (t) => {
  let tokens = table;
  const { app, guard } = await server(t, { tokens: () => tokens });
  const url = await app.listen({ host: "127.0.0.1", port: 0 });
  const response = await new Promise<IncomingMessage>((resolve, reject) =>
    get(`${url}/v1/events`, { agent: false, headers: bearer("read") }, resolve).on("error", reject),
  );
  assert.equal(response.statusCode, 200);
  tokens = TokenTable.parse("", "tokens");
  guard.recheck();
  assert.equal(await text(response), "");
});

test("REST: a route that changes something cannot be added without a permission", () => {
  const route = (method: string, config = {}) => ({ method, url: "/x", config }) as unknown as RouteOptions;
  assert.throws(() => requirePermission(route("POST")), /POST \/x names no permission/);
  assert.throws(() => requirePermission(route("DELETE")), TypeError);
  requirePermission(route("GET"));
  requirePermission(route("POST", { permission: "stopJob" }));
});
