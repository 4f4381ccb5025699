import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import type { FailedMessage, ListeningMessage } from "../../cli/local_cluster.js";
import { entryPoint } from "../../job/entry_points.js";
import { Certificates } from "../support/certificates.js";
import { ETCD_SKIP, EtcdServers } from "../support/etcd_servers.js";
import { withUsers } from "../support/etcd_users.js";
import { until } from "../support/until.js";

test("gokuctl controller: on etcd with TLS and a user, whose password is nowhere to be seen", {
  timeout: 60_000,
  skip: ETCD_SKIP,
}, async (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-etcd-e2e-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const own = new Certificates(folder);
  const [server, client] = [own.sign("server"), own.sign("client")];
  const args = ["--cert-file", server.certFile, "--key-file", server.keyFile];
  const servers = await EtcdServers.start({ tls: { args, settings: { ca: own.ca.cert, client } } });
  t.after(() => servers.stop());
  await withUsers(servers);
  const password = path.join(folder, "password");
  writeFileSync(password, "goku-password\n");
  const run = async (passwordFile: string) => {
    const child = fork(
      entryPoint("gokuctl"),
      [
        ...[
          "controller",
          "--port",
          "0",
          "--rest-port",
          "0",
          "--store",
          `etcd://${servers.endpoints[0]}/goku`,
        ],
        ...["--store-ca", own.ca.certFile, "--store-cert", client.certFile, "--store-key", client.keyFile],
        ...["--store-user", "goku", "--store-password-file", passwordFile],
      ],
      { stdio: ["ignore", "pipe", "pipe", "ipc"] },
    );
    t.after(() => void child.kill("SIGKILL"));
    const said = { text: "" };
    for (const stream of [child.stdout!, child.stderr!])
      stream.on("data", (chunk: Buffer) => {
        said.text += chunk.toString();
      });
    const ended = once(child, "exit");
    const [message] = (await once(child, "message")) as [ListeningMessage | FailedMessage];
    return { child, said, ended, message };
  };

  const { child, said, ended, message } = await run(password);
  assert.equal(message.kind, "listening", said.text);
  const { rest } = message as ListeningMessage;
  await until(async () => (await fetch(`${rest}/readyz`)).status === 200);
  assert.ok(!readFileSync(`/proc/${child.pid}/cmdline`, "utf8").includes("goku-password"));
  child.kill("SIGTERM");
  assert.deepEqual(await ended, [0, null]);
  assert.match(said.text, /"store":"etcd:\/\/127\.0\.0\.1:\d+\/goku\/"/);
  assert.ok(!said.text.includes("goku-password"));

  writeFileSync(password, "wrong-password");
  const refused = await run(password);
  assert.equal(refused.message.kind, "failed");
  assert.deepEqual(await refused.ended, [21, null]);
  assert.match(refused.said.text, /STORE_UNAVAILABLE: .*authentication failed.*check --store/);
  assert.ok(!refused.said.text.includes("wrong-password"));
});
