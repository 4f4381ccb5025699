import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import net from "node:net";
import { after, before, describe, it } from "node:test";
import type { CommListenStats } from "../../worker/engine/native.js";
import type { OperationSpec } from "./collectives_rank.js";
import { type GroupSpec, Ranks } from "./collectives_ranks.js";

const SMALL: OperationSpec = {
  op: "allReduce",
  dtype: "f64",
  count: 3,
  reduction: 0,
  seed: 2,
  nanFrom: null,
};
let ranks: Ranks;
let generation = 0;
before(async () => {
  ranks = await Ranks.start(3);
});
after(() => ranks.stop());

function pair(overrides: Partial<GroupSpec> = {}): GroupSpec {
  generation++;
  return { name: "pair", generation, members: [0, 1], nodes: ["a", "b"], ...overrides };
}

function stats(rank: number): Promise<CommListenStats> {
  return ranks.ranks[rank]!.do<CommListenStats>({ kind: "stats" });
}

/** Polls the counters of a rank until they are as wanted; the test's own time limit ends a vain wait. */
async function until(rank: number, ready: (now: CommListenStats) => boolean): Promise<CommListenStats> {
  for (;;) {
    const now = await stats(rank);
    if (ready(now)) return now;
  }
}

/** Sends raw bytes to the listening socket of a rank and resolves with what it answers until it hangs up. */
async function speak(rank: number, bytes: Uint8Array): Promise<Buffer> {
  const socket = net.connect(ranks.ranks[rank]!.port, "127.0.0.1");
  const answer: Buffer[] = [];
  socket.on("data", (chunk: Buffer) => answer.push(chunk));
  socket.on("error", () => {}); // a reset is an answer too
  socket.write(bytes);
  await new Promise((closed) => socket.on("close", closed));
  return Buffer.concat(answer);
}

/** A port whose queue of connections is full and stays so: the kernel drops what comes, as if the network were cut. */
class SilentHost {
  readonly port: number;
  readonly #process: ChildProcess;
  readonly #waiting: net.Socket[];

  private constructor(process: ChildProcess, port: number, waiting: net.Socket[]) {
    this.#process = process;
    this.port = port;
    this.#waiting = waiting;
  }

  static async start(): Promise<SilentHost> {
    const serve =
      "require('net').createServer().listen({ port: 0, host: '127.0.0.1', backlog: 1 }, function () { console.log(this.address().port) })";
    const child = spawn(process.execPath, ["-e", serve], { stdio: ["ignore", "pipe", "inherit"] });
    const [line] = (await once(child.stdout, "data")) as [Buffer];
    const port = Number(line.toString());
    child.kill("SIGSTOP"); // nobody takes connections any more
    const waiting: net.Socket[] = [];
    for (let i = 0; i < 2; i++) {
      const socket = net.connect(port, "127.0.0.1");
      await once(socket, "connect");
      waiting.push(socket);
    }
    return new SilentHost(child, port, waiting);
  }

  stop(): void {
    for (const socket of this.#waiting) socket.destroy();
    this.#process.kill("SIGKILL");
  }
}

describe("forming a group", () => {
  it("parks connections until their group is created here", async () => {
    const group = pair();
    const early = ranks.join(group, 1); // the higher member dials the lower one
    await until(0, (now) => now.parked === 2); // control and data
    const late = await ranks.join(group, 0);
    assert.equal(late.error, null);
    assert.equal((await early).error, null);
    await ranks.run(group, [SMALL]);
    await ranks.close(group);
  });

  it("refuses a member of an older generation, and tells it which one runs", async () => {
    const old = pair();
    const current = pair();
    await ranks.form(current);
    const before = await stats(0);
    const { error } = await ranks.join({ ...old, members: [0, 2] }, 2);
    assert.equal(error?.code, "COMM_ABORTED");
    assert.match(error!.message, new RegExp(`at generation ${current.generation} already`));
    assert.ok((await stats(0)).refusedStale > before.refusedStale);
    await ranks.run(current, [SMALL]);
    await ranks.close(current);
  });

  it("refuses parked members once a newer generation begins", async () => {
    const old = pair({ members: [0, 2] });
    const early = ranks.join(old, 2);
    await until(0, (now) => now.parked === 2);
    const current = pair();
    await ranks.form(current);
    assert.equal((await early).error?.code, "COMM_ABORTED");
    assert.equal((await stats(0)).parked, 0);
    await ranks.close(current);
  });

  it("keeps jobs of the same group names apart", async () => {
    const one = pair({ members: [0, 1], job: "one" });
    const two: GroupSpec = { ...one, members: [0, 2], job: "two", handle: "second" };
    await Promise.all([ranks.form(two), ranks.form(one)]);
    for (const group of [one, two]) await ranks.run(group, [SMALL]);
    for (const group of [one, two]) await ranks.close(group);
  });

  it("fails on members that disagree about who is in the group", async () => {
    const group: GroupSpec = { ...pair(), timeoutMs: 2_000 };
    const first = ranks.join(group, 0);
    const { error } = await ranks.join({ ...group, nodes: ["a", "c"] }, 1);
    assert.equal(error?.code, "NATIVE_ARGUMENT");
    assert.equal(error?.peer, 0);
    assert.equal((await first).error?.code, "COMM_TIMEOUT");
  });

  it("is COMM_TIMEOUT naming the member that never comes", async () => {
    const group: GroupSpec = { ...pair({ members: [0, 1, 2], nodes: ["a", "a", "b"] }), timeoutMs: 300 };
    const outcomes = await Promise.all([ranks.join(group, 0), ranks.join(group, 2)]);
    for (const { error } of outcomes)
      assert.deepEqual([error?.code, error?.peer, error?.operation], ["COMM_TIMEOUT", 1, "connect"]);
  });

  it("is COMM_TIMEOUT naming a member whose host answers no connection, long before the group's time is over", async () => {
    const silent = await SilentHost.start();
    const group = pair();
    const [first, own] = ranks.endpoints(group);
    const { error } = await ranks.ranks[1]!.tell({
      kind: "create",
      group: group.name,
      options: {
        name: group.name,
        job: "test",
        generation: String(group.generation),
        rank: 1,
        members: [{ ...first!, port: silent.port }, own!],
        timeoutMs: 1_000_000_000,
        reachMs: 300,
        transport: "auto",
      },
    });
    silent.stop();
    assert.deepEqual([error?.code, error?.peer, error?.operation], ["COMM_TIMEOUT", 0, "connect"]);
    assert.match(error!.message, /rank 0 at 127.0.0.1:\d+ cannot be reached: no answer in 300 ms/);
  });

  it("is COMM_PEER_DIED naming a member that dies before all are there", async () => {
    for (const nodes of [
      ["a", "b", "c"],
      ["a", "b", "a"],
    ]) {
      const group = pair({ members: [0, 1, 2], nodes });
      const before = await stats(0);
      const waiting = ranks.join(group, 0);
      const victim = ranks.join(group, 2);
      // Control and data connection, or control alone where memory is shared.
      const connections = nodes[2] === nodes[0] ? 1 : 2;
      await until(0, (now) => now.accepted === before.accepted + connections);
      await ranks.ranks[2]!.kill();
      await victim;
      const { error } = await waiting;
      assert.deepEqual([error?.code, error?.peer], ["COMM_PEER_DIED", 2]);
      const fresh = await ranks.add();
      ranks.ranks[2] = ranks.ranks[fresh]!;
      ranks.ranks.length = fresh;
    }
  });

  it("ends at the abort word", async () => {
    const group = pair();
    const waiting = ranks.join(group, 1);
    await ranks.ranks[1]!.entered(1);
    ranks.ranks[1]!.abortGeneration(group.generation, 0);
    const { error } = await waiting;
    assert.deepEqual([error?.code, error?.peer], ["COMM_ABORTED", 0]);
  });

  it("counts strangers and goes on", async () => {
    const before = await stats(0);
    const hello = Buffer.alloc(40);
    hello.write("GOKU", 0, "latin1");
    hello.writeUInt16LE(1, 4);
    const longName = Buffer.from(hello);
    longName.writeUInt16LE(60_000, 34);
    const otherVersion = Buffer.from(hello);
    otherVersion.writeUInt16LE(9, 4);
    await speak(0, Buffer.from("GET / HTTP/1.1\r\n\r\n"));
    await speak(0, Buffer.alloc(10_000, 0xff));
    await speak(0, longName);
    await speak(0, otherVersion);
    const now = await until(0, ({ refusedMalformed }) => refusedMalformed >= before.refusedMalformed + 4);
    assert.equal(now.accepted, before.accepted);
    const group = pair();
    await ranks.form(group);
    await ranks.run(group, [SMALL]);
    await ranks.close(group);
  });

  it("hears strangers again after it was out of descriptors for a while", { timeout: 30_000 }, async () => {
    const { pid } = ranks.ranks[0]!.process;
    const limit = (count: string) => execFileSync("prlimit", ["--pid", `${pid}`, `--nofile=${count}:`]);
    limit("1"); // accept() finds no descriptor, and poll() refuses its two
    const answer = speak(0, Buffer.from("GET / HTTP/1.1\r\n\r\n"));
    for (let i = 0; i < 50; i++) await stats(0);
    limit("1024");
    assert.ok((await answer).length > 0);
  });

  it("checks its options and says which field is wrong", async () => {
    const group = pair();
    const endpoints = ranks.endpoints(group);
    const options = {
      name: "x",
      job: "test",
      generation: "1",
      rank: 0,
      members: endpoints,
      timeoutMs: 100,
      reachMs: 100,
      transport: "auto" as const,
    };
    for (const [broken, message] of [
      [{ ...options, rank: 2 }, /args\[0\]\.rank/],
      [{ ...options, members: [] }, /args\[0\]\.members/],
      [
        { ...options, members: [endpoints[0]!, { ...endpoints[1]!, port: 70_000 }] },
        /args\[0\]\.members\[1\]\.port/,
      ],
      [{ ...options, name: "" }, /args\[0\]\.name/],
      [{ ...options, timeoutMs: 0 }, /args\[0\]\.timeoutMs/],
      [{ ...options, reachMs: 0 }, /args\[0\]\.reachMs/],
      [{ ...options, transport: "rdma" as "tcp" }, /args\[0\]\.transport/],
    ] as const) {
      const { error } = await ranks.ranks[0]!.tell({
        kind: "create",
        group: "x",
        options: { ...broken, members: [...broken.members] },
      });
      assert.equal(error?.code, "NATIVE_ARGUMENT");
      assert.match(error!.message, message);
    }
  });
});
