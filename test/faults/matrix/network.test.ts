import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync } from "node:fs";
import { connect, createServer } from "node:net";
import { test } from "node:test";
import { Network } from "./network.js";

const opened = Network.open(["left", "right"]);
const network = opened.network;
const skip = opened.network === null ? `no network namespaces: ${opened.reason}` : false;

/** Whether a member can ask another and hear the answer: a connection that is refused is an answer, too. */
async function hears(from: string, to: string): Promise<boolean> {
  const script = `const socket = require("node:net").connect(9, ${JSON.stringify(network!.host(to))});
    socket.on("error", ({ code }) => process.exit(code === "ECONNREFUSED" ? 0 : 1));
    socket.setTimeout(300, () => process.exit(1));`;
  const [command, ...args] = [...network!.enter(from), process.execPath, "--eval", script];
  const [code] = await once(spawn(command!, args, { stdio: "ignore" }), "exit");
  return code === 0;
}

test("Network: members reach each other; a cut in one direction or both is silence, and ends when healed", {
  skip,
}, async () => {
  assert.ok(await hears("left", "right"));
  network!.cutOneWay("right", "left");
  assert.ok(!(await hears("left", "right")), "the question arrives, the answer does not");
  assert.ok(!(await hears("right", "left")));
  network!.heal();
  assert.ok(await hears("left", "right"));
  network!.cut("left", "right");
  assert.ok(!(await hears("left", "right")));
  network!.heal();
  assert.ok(await hears("right", "left"));
});

test("Network: this process is on it, and loses nothing else by it", { skip }, async () => {
  const socket = connect(9, network!.host("left"));
  const [error] = (await once(socket, "error").catch((each) => [each])) as [NodeJS.ErrnoException];
  assert.equal(error.code, "ECONNREFUSED");
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  server.close();
});

test("Network: nothing of it is left once it is closed", { skip }, () => {
  const left = () => readdirSync("/run/netns").filter((name) => name.startsWith(`goku-${process.pid}-`));
  assert.equal(left().length, 3);
  network!.close();
  assert.deepEqual(left(), []);
  assert.ok(!readdirSync("/sys/class/net").some((name) => name.startsWith(`gk${process.pid}`)));
  assert.ok(existsSync("/sys/class/net/lo"));
});
