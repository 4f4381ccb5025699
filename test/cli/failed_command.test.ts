import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { connect } from "node:net";
import { type TestContext, test } from "node:test";
import { gokuctl } from "../support/gokuctl.js";

/** Far below the two minutes in which the system gives up a connection. */
const SOON_MS = 60_000;
const LISTENS = `const server = require("node:net").createServer();
server.listen({ port: 0, host: "127.0.0.1", backlog: 1 }, () => console.log(server.address().port));`;

/** A port whose connections are neither taken nor refused, as of a machine that a network has lost: the queue before it is full. */
async function unansweredPort(t: TestContext): Promise<number> {
  const child = spawn(process.execPath, ["-e", LISTENS], { stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  const [line] = (await once(child.stdout, "data")) as [Buffer];
  child.kill("SIGSTOP");
  const port = Number(line.toString());
  const waiting = Array.from({ length: 8 }, () => connect(port, "127.0.0.1").on("error", () => {}));
  t.after(() => {
    for (const socket of waiting) socket.destroy();
  });
  await Promise.all(waiting.slice(0, 2).map((socket) => once(socket, "connect"))); // as many as the queue holds
  assert.ok(waiting.some((socket) => socket.connecting));
  return port;
}

test("a controller that cannot reach etcd says so and ends, though the network answers nothing", async (t) => {
  const port = await unansweredPort(t);
  const startMs = performance.now();
  const { code, stderr } = await gokuctl(["controller", "--store", `etcd://127.0.0.1:${port}`]);
  assert.equal(code, 21);
  assert.match(stderr, /^STORE_UNAVAILABLE: Cannot use the store: etcd at 127\.0\.0\.1/);
  const tookMs = performance.now() - startMs;
  assert.ok(tookMs < SOON_MS, `it took ${Math.round(tookMs)} ms`);
});
