import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { type EventEmitter, once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, describe, it } from "node:test";
import { commandJobSchema } from "../../../job/command_job.js";
import { decodePage } from "../../../worker/agent/progress_reader.js";
import { PAGE_BYTES } from "../../../worker/pages.js";
import { endFamily, FAMILY_VARIABLE } from "../../../worker/program/process_family.js";
import { ProgramRank } from "../../../worker/program/program_rank.js";
import type { FromRank, ToRank } from "../../../worker/rank_messages.js";
import { until } from "../../support/until.js";

const folder = mkdtempSync(path.join(tmpdir(), "goku-program-rank-"));
after(() => rmSync(folder, { recursive: true, force: true }));

type Told<K extends FromRank["kind"]> = Extract<FromRank, { kind: K }>;

/** One rank that is the whole world, whose program is a shell script with a folder of its own, `$DIR`. */
class Harness {
  readonly told: FromRank[] = [];
  readonly dir = mkdtempSync(path.join(folder, "rank-"));
  readonly progressPage = path.join(this.dir, "progress");
  readonly heartbeatFile = path.join(this.dir, "heartbeat");
  private readonly script: string;
  private readonly rank: ProgramRank;
  private session: number | null = null;

  constructor(script: string) {
    this.script = script;
    writeFileSync(this.progressPage, new Uint8Array(PAGE_BYTES));
    const mark = `test/${randomUUID()}`;
    this.rank = new ProgramRank({
      mark,
      inherited: { PATH: process.env.PATH, DIR: this.dir, [FAMILY_VARIABLE]: mark },
      send: (message) => this.told.push(message),
      onSession: (session) => {
        this.session = session;
      },
    });
    after(() => endFamily({ mark, session: this.session, except: 0 }, 1_000));
  }

  /** PREPARE to RUN, as an agent does it; the port that the rank published. */
  async run(generation: string, restarts = 0): Promise<number> {
    const { port } = await this.ask(this.prepare(generation, restarts), "ready");
    const members = [{ rank: 0, nodeId: "n", host: "127.0.0.1", port, pid: process.pid }];
    await this.ask({ kind: "connect", generation, members }, "connected");
    const restored = await this.ask(
      { kind: "restore", generation, source: { kind: "initial" }, rollBacks: [] },
      "restored",
    );
    assert.deepEqual(restored.state, { generation: "0", step: 0 });
    this.rank.receive({ kind: "run", generation });
    return port;
  }

  prepare(generation: string, restarts = 0): ToRank {
    const { progressPage, heartbeatFile, script } = this;
    const job = commandJobSchema.parse({
      name: "ddp",
      trainer: { command: ["/bin/sh", "-c", script], cwd: this.dir, stop_grace_seconds: 600 },
    });
    return {
      kind: "prepareProgram",
      generation,
      jobId: "j",
      job,
      layout: { dp_replicate: 1, dp_shard: 1, sp: 1 },
      rank: 0,
      localRank: 0,
      localWorldSize: 1,
      nodeId: "n",
      host: "127.0.0.1",
      progressPage,
      heartbeatFile,
      threads: 1,
      restarts,
      stepHighest: 0,
    };
  }

  receive(message: ToRank): void {
    this.rank.receive(message);
  }

  /** Sends a command and waits for the first answer of that kind that follows. */
  async ask<K extends FromRank["kind"]>(message: ToRank, kind: K): Promise<Told<K>> {
    const from = this.told.length;
    this.rank.receive(message);
    return this.next(kind, from);
  }

  async next<K extends FromRank["kind"]>(kind: K, from = 0): Promise<Told<K>> {
    const found = () => this.told.slice(from).find((message) => message.kind === kind);
    await until(() => found() !== undefined);
    return found() as Told<K>;
  }

  abort(generation: string): ToRank {
    return { kind: "abort", generation, code: "PROGRAM_FAILED", message: "rank 1 failed", peer: 1 };
  }

  page() {
    return decodePage(readFileSync(this.progressPage));
  }

  file(name: string): string {
    try {
      return readFileSync(path.join(this.dir, name), "utf8");
    } catch {
      return "";
    }
  }
}

/** Code of the error that a socket ends with. */
async function codeOf(socket: EventEmitter): Promise<string | undefined> {
  const [error] = (await once(socket, "error")) as [NodeJS.ErrnoException];
  return error.code;
}

describe("ProgramRank", () => {
  it("runs the program at the port it has published, and ends with its exit code 0", async () => {
    const harness = new Harness(
      'echo "$RANK/$WORLD_SIZE $MASTER_ADDR:$MASTER_PORT $TORCHELASTIC_RESTART_COUNT" > $DIR/place',
    );
    const port = await harness.run("1", 3);
    const finished = await harness.next("finished");
    assert.equal(harness.file("place"), `0/1 127.0.0.1:${port} 3\n`);
    assert.deepEqual(finished, {
      kind: "finished",
      generation: "1",
      rank: 0,
      state: { generation: "1", step: 0 },
      reason: "steps",
    });
    assert.equal(harness.page().phase, "finished");
  });

  it("keeps its port from others until all ranks are ready, and frees it before any program can look for it", async () => {
    const harness = new Harness("exec sleep 1000");
    const { port } = await harness.ask(harness.prepare("1"), "ready");
    assert.equal(await codeOf(createServer().listen(port, "127.0.0.1")), "EADDRINUSE");
    const members = [{ rank: 0, nodeId: "n", host: "127.0.0.1", port, pid: process.pid }];
    await harness.ask({ kind: "connect", generation: "1", members }, "connected");
    assert.equal(await codeOf(connect(port, "127.0.0.1")), "ECONNREFUSED");
  });

  it("tells how the program failed", async () => {
    const harness = new Harness("exit 3");
    await harness.run("1");
    const { code, message, operation } = await harness.next("failed");
    assert.deepEqual(
      { code, message, operation },
      {
        code: "PROGRAM_FAILED",
        message: "the program exited with code 3",
        operation: "program",
      },
    );
    const killed = new Harness("kill -KILL $$");
    await killed.run("1");
    assert.match(
      (await killed.next("failed")).message,
      /^the program was ended by SIGKILL \(out of memory\?\)$/,
    );
  });

  it("takes the next generation after a failure, with a new port and nothing of the old heartbeats", async () => {
    const harness = new Harness(
      "echo '{\"step\": 5}' > $GOKU_HEARTBEAT_FILE; [ $TORCHELASTIC_RESTART_COUNT = 1 ] && exec sleep 1000; exit 1",
    );
    await harness.run("1", 0);
    assert.equal((await harness.next("step")).metrics.step, 5);
    await harness.next("failed");
    assert.equal(harness.page().phase, "idle");
    const from = harness.told.length;
    await harness.ask(harness.prepare("2", 1), "ready");
    const { step, microStep, phase, generation } = harness.page();
    assert.deepEqual(
      { step, microStep, phase, generation },
      { step: 0n, microStep: 0, phase: "forming", generation: 2n },
    );
    assert.equal(
      harness.told.slice(from).some(({ kind }) => kind === "step"),
      false,
    );
  });

  it("shows heartbeats by file and by HTTP on its page, and tells the steps they name once, with their pace", async () => {
    const harness = new Harness("env > $DIR/env; sleep 1000");
    await harness.run("1");
    await until(() => harness.file("env").includes("GOKU_HEARTBEAT_URL"));
    const url = /^GOKU_HEARTBEAT_URL=(.*)$/m.exec(harness.file("env"))![1]!;
    const post = (body: string) => fetch(url, { method: "POST", body });
    await post("");
    assert.deepEqual([harness.page().microStep, harness.page().step], [1, 0n]);
    await post('{"step": 10, "loss": 0.5}');
    await post('{"step": 12, "loss": 0.25}');
    await post('{"step": 12, "loss": 0.25}');
    assert.deepEqual([harness.page().microStep, harness.page().step], [4, 12n]);
    writeFileSync(harness.heartbeatFile, '{"step": 13}');
    await until(() => harness.page().step === 13n);
    const steps = harness.told.flatMap((message) => (message.kind === "step" ? [message.metrics] : []));
    assert.deepEqual(
      steps.map(({ step, loss }) => ({ step, loss })),
      [
        { step: 10, loss: 0.5 },
        { step: 12, loss: 0.25 },
        { step: 13, loss: null },
      ],
    );
    assert.equal(steps[0]!.stepSeconds, 0, "the first has no pace");
    assert.ok(steps[1]!.stepSeconds > 0);
    assert.equal(harness.page().phase, "program");
    const finished = harness.ask({ kind: "request", request: "stop" }, "finished");
    assert.equal((await finished).state.step, 13);
  });

  it("counts the heartbeat that the program wrote last", async () => {
    const harness = new Harness('echo \'{"step": 9, "loss": 1}\' > $GOKU_HEARTBEAT_FILE');
    await harness.run("1");
    assert.equal((await harness.next("finished")).state.step, 9);
  });

  it("stops in order: SIGTERM, and whatever the program exits with is no failure", async () => {
    const harness = new Harness("trap 'exit 9' TERM; echo up > $DIR/up; while :; do sleep 0.05; done");
    await harness.run("1");
    await until(() => harness.file("up") !== "");
    const { reason } = await harness.ask({ kind: "request", request: "stop" }, "finished");
    assert.equal(reason, "stop");
    const plain = new Harness("echo up > $DIR/up; exec sleep 1000");
    await plain.run("1");
    await until(() => plain.file("up") !== "");
    assert.equal((await plain.ask({ kind: "request", request: "stop" }, "finished")).reason, "stop");
  });

  it("starts nothing where the stop comes before the start", async () => {
    const harness = new Harness("echo up > $DIR/up");
    const { port } = await harness.ask(harness.prepare("1"), "ready");
    const members = [{ rank: 0, nodeId: "n", host: "127.0.0.1", port, pid: process.pid }];
    harness.receive({ kind: "connect", generation: "1", members });
    harness.receive({ kind: "restore", generation: "1", source: { kind: "initial" }, rollBacks: [] });
    harness.receive({ kind: "request", request: "stop" });
    const { reason } = await harness.ask({ kind: "run", generation: "1" }, "finished");
    assert.equal(reason, "stop");
    assert.equal(harness.file("up"), "");
  });

  it("leaves a generation when told to: soon, though the program does not listen, and with one answer", async () => {
    const harness = new Harness("trap '' TERM; echo up > $DIR/up; while :; do sleep 0.05; done");
    await harness.run("1");
    await until(() => harness.file("up") !== "");
    const failed = await harness.ask(harness.abort("1"), "failed");
    assert.equal(failed.code, "COMM_ABORTED");
    assert.equal(failed.message, "Cannot go on in generation 1: rank 1 failed");
    await harness.ask(harness.prepare("2"), "ready");
    assert.equal(harness.told.filter(({ kind }) => kind === "failed").length, 1);
  });

  it("is ready for a newer generation only when the program of the older one has gone", async () => {
    const harness = new Harness(
      "trap 'sleep 0.2; echo last > $DIR/last; exit 0' TERM; echo up > $DIR/up; while :; do sleep 0.05; done",
    );
    await harness.run("1");
    await until(() => harness.file("up") !== "");
    await harness.ask(harness.prepare("2"), "ready");
    assert.equal(harness.file("last"), "last\n");
    assert.equal(
      harness.told.some(({ kind }) => kind === "finished"),
      false,
      "it was not asked to stop",
    );
  });

  it("drops commands of older generations", async () => {
    const harness = new Harness("exec sleep 1000");
    await harness.run("5");
    harness.receive(harness.abort("4"));
    harness.receive(harness.prepare("4"));
    const failed = await harness.ask(harness.abort("5"), "failed");
    assert.equal(failed.generation, "5");
    assert.equal(harness.told.filter(({ kind }) => kind === "ready").length, 1);
  });
});
