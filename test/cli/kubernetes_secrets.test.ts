import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { type TestContext, test } from "node:test";
import { bootstrapSecrets, SECRET_NAMES } from "../../cli/kubernetes_secrets.js";
import { Random } from "../sim/random.js";
import { KubeServer, rulesOf } from "../support/kube/kube_server.js";
import { SimKube } from "../support/kube/sim_kube.js";

const RULES = rulesOf(["deploy/kubernetes/base/rbac.yaml"], ["goku-bootstrap"]);

async function serve(t: TestContext) {
  const server = new KubeServer(new SimKube({ random: new Random(1), nowMs: Date.now }), RULES);
  const http = await server.listen();
  t.after(() => server.close());
  const make = (tokensOnly = false) => bootstrapSecrets(http, { namespace: "goku", days: 30, tokensOnly });
  const certificate = (secret: string, key = "tls.crt") =>
    new X509Certificate(Buffer.from(server.secrets.get(secret)!.data[key]!, "base64"));
  return { server, make, certificate };
}

test("bootstrap: makes every Secret with the rights of its role, and a second time none", async (t) => {
  const { server, make, certificate } = await serve(t);
  assert.deepEqual(await make(), SECRET_NAMES);
  assert.deepEqual(server.forbidden, []);
  assert.deepEqual(await make(), []);
  const ca = certificate("goku-ca");
  const etcdCa = certificate("goku-etcd-ca");
  for (const name of ["goku-controller-tls", "goku-agent-tls", "goku-operate-tls", "goku-read-tls"]) {
    assert.ok(certificate(name).verify(ca.publicKey), name);
    assert.ok(!certificate(name).verify(etcdCa.publicKey), `${name} means nothing to etcd`);
  }
  for (const name of ["goku-etcd-tls", "goku-etcd-client-tls"])
    assert.ok(certificate(name).verify(etcdCa.publicKey), name);
  assert.match(certificate("goku-agent-tls").subject, /O=goku:agent/);
  assert.match(certificate("goku-read-tls").subject, /O=goku:read/);
  assert.ok(certificate("goku-agent-tls").checkHost("goku-agent"), "what Prometheus asks for");
  assert.match(certificate("goku-etcd-tls").subject, /CN=goku-etcd/);
  for (const host of ["goku", "goku-controller-2.goku-controllers", "goku.goku.svc"])
    assert.ok(certificate("goku-controller-tls").checkHost(host), host);
  assert.ok(certificate("goku-etcd-tls").checkHost("goku-etcd-1.goku-etcd"));
  const { data } = server.secrets.get("goku-tokens")!;
  const token = Buffer.from(data["operate.token"]!, "base64").toString().trim();
  const lines = Buffer.from(data.tokens!, "base64").toString();
  assert.match(lines, /^bootstrap operate [0-9a-f]{64}\n$/);
  assert.ok(!lines.includes(token), "the controllers get its digest alone");
});

test("bootstrap: a Secret that was deleted is made anew of the same CA; the others stay as they are", async (t) => {
  const { server, make, certificate } = await serve(t);
  await make();
  const before = structuredClone([...server.secrets]);
  const serial = certificate("goku-agent-tls").serialNumber;
  server.secrets.delete("goku-agent-tls");
  assert.deepEqual(await make(), ["goku-agent-tls"]);
  assert.notEqual(certificate("goku-agent-tls").serialNumber, serial);
  assert.ok(certificate("goku-agent-tls").verify(certificate("goku-ca").publicKey));
  for (const [name, secret] of before.filter(([one]) => one !== "goku-agent-tls"))
    assert.deepEqual(server.secrets.get(name), secret, name);
});

test("bootstrap beside cert-manager makes the token alone", async (t) => {
  const { make } = await serve(t);
  assert.deepEqual(await make(true), ["goku-tokens"]);
});
