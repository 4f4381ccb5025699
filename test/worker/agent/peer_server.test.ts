import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import * as grpc from "@grpc/grpc-js";
import { PeerServiceClient } from "../../../gen/goku/v1/peer.pb.js";
import { KeptReplicas } from "../../../worker/agent/kept_replicas.js";
import type { PeerServerOptions } from "../../../worker/agent/peer_server.js";
import { SnapshotStore } from "../../../worker/agent/snapshot_store.js";
import { PEER_CHANNEL, type PeerAccess, peerChannel } from "../../../worker/peer_channel.js";
import { makeCredentials } from "../../support/credentials.js";
import { PEER_ACCESS, peerServer } from "../../support/peers.js";

const scratch = mkdtempSync(path.join(tmpdir(), "goku-peers-"));
after(() => rmSync(scratch, { recursive: true, force: true }));
const ours = makeCredentials(path.join(scratch, "ours"));
const theirs = makeCredentials(path.join(scratch, "theirs"));
const tlsOf = (of: typeof ours, name: string, ca = of) => ({
  ca: ca.file("ca.crt"),
  cert: of.file(`${name}.crt`),
  key: of.file(`${name}.key`),
});
const AGENT = tlsOf(ours, "agent");

/** A node without a single snapshot: who is let in hears so. */
async function serve(t: { after: (end: () => void) => void }, other: Partial<PeerServerOptions> = {}) {
  const store = new SnapshotStore(mkdtempSync(path.join(scratch, "node-")));
  const server = peerServer(store, new KeptReplicas(store), other);
  const port = await server.start("127.0.0.1");
  t.after(() => server.close());
  return port;
}

/** What a caller hears: NOT_FOUND means that it was let in. */
async function ask(
  port: number,
  channel: [grpc.ChannelCredentials, grpc.ClientOptions],
  method: "read" | "replicate" = "read",
): Promise<string> {
  const client = new PeerServiceClient(`127.0.0.1:${port}`, ...channel);
  const request = { jobId: "job", state: { generation: 1n, step: 1n }, rank: 0, chunks: [] };
  const layout = { dpReplicate: 1, dpShard: 1, sp: 1 };
  const call = method === "read" ? client.readSnapshot({ ...request, layout }) : client.replicate();
  const error = await new Promise<Partial<grpc.ServiceError>>((resolve) => {
    call.on("error", resolve).on("end", () => resolve({ code: grpc.status.OK }));
    call.on("data", () => {});
    if ("write" in call) call.end();
  });
  client.close();
  return `${grpc.status[error.code!]}: ${error.details}`;
}

test("PeerServer lets in who shows the secret of its job, and nobody while it serves none", async (t) => {
  let secret: string | null = PEER_ACCESS.secret;
  const port = await serve(t, { secret: () => secret });
  assert.match(await ask(port, peerChannel(PEER_ACCESS)), /NOT_FOUND: no whole snapshot/);
  assert.match(await ask(port, peerChannel(PEER_ACCESS), "replicate"), /INVALID_ARGUMENT: .*no offer came/);
  const bare: [grpc.ChannelCredentials, grpc.ClientOptions] = [
    grpc.credentials.createInsecure(),
    PEER_CHANNEL,
  ];
  const other = peerChannel({ ...PEER_ACCESS, secret: "of another job" });
  for (const method of ["read", "replicate"] as const) {
    assert.match(await ask(port, bare, method), /UNAUTHENTICATED: .*does not show the secret/);
    assert.match(await ask(port, other, method), /UNAUTHENTICATED: .*does not show the secret/);
  }
  secret = null;
  assert.match(await ask(port, peerChannel(PEER_ACCESS)), /UNAUTHENTICATED/);
});

test("PeerServer with a certificate: caller and server must each be an agent of the same CA, whatever the address", async (t) => {
  const port = await serve(t, { tls: AGENT });
  const as = (tls: PeerAccess["tls"]) => peerChannel({ ...PEER_ACCESS, tls });
  assert.match(await ask(port, as(AGENT)), /NOT_FOUND: no whole snapshot/);
  assert.match(await ask(port, peerChannel({ secret: "x", tls: AGENT })), /UNAUTHENTICATED: .*secret/);
  // Of the CA, and no agent: a person's certificate.
  assert.match(await ask(port, as(tlsOf(ours, "operate"))), /UNAUTHENTICATED: .*certificate is no agent's/);
  // Of another CA, which trusts ours; of none; without TLS.
  assert.match(await ask(port, as(tlsOf(theirs, "agent", ours))), /UNAVAILABLE/);
  const nameless = grpc.credentials.createSsl(null, null, null, { rejectUnauthorized: false });
  assert.match(await ask(port, [nameless, PEER_CHANNEL]), /UNAVAILABLE/);
  assert.match(await ask(port, as(null)), /UNAVAILABLE/);
});

test("PeerServer says when the certificate expires that it shows, and nothing where it has none", async (t) => {
  const store = new SnapshotStore(mkdtempSync(path.join(scratch, "node-")));
  for (const tls of [AGENT, null]) {
    const server = peerServer(store, new KeptReplicas(store), { tls });
    t.after(() => server.close());
    await server.start("127.0.0.1");
    const ends = tls && Date.parse(new X509Certificate(readFileSync(tls.cert)).validTo);
    assert.equal(server.certificateExpiryMs, ends);
  }
});

test("a caller sends its secret to no server but an agent of its CA", async (t) => {
  const heard: string[] = [];
  for (const tls of [tlsOf(ours, "controller"), tlsOf(theirs, "agent")]) {
    const secret = () => {
      heard.push("asked");
      return PEER_ACCESS.secret;
    };
    const port = await serve(t, { tls, secret });
    const answer = await ask(port, peerChannel({ ...PEER_ACCESS, tls: AGENT }));
    assert.match(answer, /UNAVAILABLE: .*(no agent's|certificate)/);
  }
  assert.deepEqual(heard, []);
});
