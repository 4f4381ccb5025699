import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import * as grpc from "@grpc/grpc-js";
import { AgentSessions, agentService } from "../../../controller/api/agent_sessions.js";
import type { AgentMessage, Session } from "../../../controller/core/contract.js";
import {
  AgentServiceClient,
  Hello,
  type SessionRequest,
  type SessionResponse,
} from "../../../gen/goku/v1/agent.pb.js";

/** A stream of an agent, and what it was told. */
class FakeCall extends EventEmitter {
  readonly written: SessionResponse[] = [];
  writableLength = 0;
  ended = false;
  readonly #peer: string;
  /** What it was ended with, where that was an error. */
  status = "";
  constructor(peer = "10.0.0.7:40000") {
    super();
    this.#peer = peer;
    this.on("error", (error: Error) => {
      this.status = error.message;
      this.end();
    });
  }
  getPeer(): string {
    return this.#peer;
  }
  write(response: SessionResponse): void {
    this.written.push(response);
  }
  end(): void {
    this.ended = true;
  }
  say(message: SessionRequest["message"]): void {
    this.emit("data", { message });
  }
}

function sessionsOf(ungreetedMax?: { perCaller: number; total: number }) {
  const seen: string[] = [];
  const callbacks = {
    onMessage: (from: Session, message: AgentMessage) => void seen.push(`${from.nodeId} ${message.$case}`),
    onGone: (from: Session) => void seen.push(`${from.nodeId} gone`),
    refusal: () => null,
  };
  const sessions = new AgentSessions(callbacks, ungreetedMax);
  const accept = (peer?: string) => {
    const call = new FakeCall(peer);
    sessions.service().session(call as unknown as grpc.ServerDuplexStream<SessionRequest, SessionResponse>);
    return call;
  };
  return { sessions, seen, accept };
}

function open() {
  const { seen, accept } = sessionsOf();
  return { call: accept(), seen };
}

function refusal({ written, ended }: FakeCall): string {
  const message = written[0]?.message;
  return ended && message?.$case === "refused" ? message.value.error!.message : "";
}

const hello = { nodeId: "node-a", host: "127.0.0.1", slots: 1, device: "cpu", version: "0.1.0" };

test("AgentSessions: a stream on which nobody says hello is ended; one that did is left alone", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const silent = open();
  const talking = open();
  talking.call.say({ $case: "hello", value: Hello.fromPartial(hello) });
  t.mock.timers.tick(9_999);
  assert.equal(silent.call.status, "");
  t.mock.timers.tick(1);
  assert.match(silent.call.status, /^Cannot go on with a session: no hello came in 10 s$/);
  assert.deepEqual(silent.call.written, [], "who does not read is not written to");
  t.mock.timers.tick(100_000);
  assert.equal(talking.call.ended, false);
  talking.call.emit("cancelled");
  assert.deepEqual(talking.seen, ["node-a hello", "node-a gone"]);
  assert.deepEqual(silent.seen, []);
});

test("AgentSessions: an agent that says something else first, or calls itself what it must not, reaches nobody", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const rude = open();
  rude.call.say({ $case: "nodeReleased", value: { jobId: "j" } });
  assert.match(refusal(rude.call), /the first message is nodeReleased, want hello/);
  const wrong = open();
  wrong.call.say({ $case: "hello", value: Hello.fromPartial({ ...hello, nodeId: "../../etc" }) });
  assert.match(refusal(wrong.call), /node_id is no node name/);
  assert.deepEqual([...rude.seen, ...wrong.seen], []);
});

test("AgentSessions: streams without hello are so many an address, and so many in all; hello and the end make room", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const { accept } = sessionsOf({ perCaller: 2, total: 4 });
  const silent = [accept("10.0.0.7:1"), accept("10.0.0.7:2")];
  assert.match(
    accept("10.0.0.7:3").status,
    /^Cannot open a session: 10\.0\.0\.7 has 2 open, which is the most;/,
  );
  silent[0]!.say({ $case: "hello", value: Hello.fromPartial(hello) });
  const third = accept("10.0.0.7:4");
  assert.equal(third.status, "", "one of them has said hello");
  const other = [accept("fd00::2:1"), accept("127.0.0.1:1")];
  assert.match(accept("127.0.0.1:2").status, /4 are open in all/);
  third.say({ $case: "nodeReleased", value: { jobId: "j" } });
  assert.match(
    accept("127.0.0.1:3").status,
    /4 are open in all/,
    "what was refused may be left unread for ever",
  );
  third.emit("close");
  third.emit("cancelled");
  assert.equal(accept("127.0.0.1:4").status, "", "on loopback only the sum counts");
  assert.match(accept("127.0.0.1:5").status, /4 are open in all/, "an end makes room once");
  assert.deepEqual(
    other.map(({ status }) => status),
    ["", ""],
  );
});

test("AgentSessions: an agent that reads nothing hears of the end of its session once it reads again", () => {
  const { sessions, seen, accept } = sessionsOf();
  const call = accept();
  call.say({ $case: "hello", value: Hello.fromPartial(hello) });
  call.writableLength = 1_001;
  assert.equal(sessions.send(1, { term: 1n, commandId: 1n, message: undefined }), false);
  assert.match(call.status, /1000 messages wait for the agent, which does not read them/);
  assert.deepEqual(seen, ["node-a hello", "node-a gone"]);
});

test("AgentSessions over gRPC: one stream too many ends with RESOURCE_EXHAUSTED; one that leaves makes room", async (t) => {
  const { sessions } = sessionsOf({ perCaller: 1, total: 1 });
  const server = new grpc.Server();
  server.addService(agentService, sessions.service());
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, bound) =>
      error ? reject(error) : resolve(bound),
    );
  });
  const client = new AgentServiceClient(`127.0.0.1:${port}`, grpc.credentials.createInsecure());
  t.after(() => {
    client.close();
    server.forceShutdown();
  });
  /** The first way it ends: refused, or with an answer to what is no hello, which proves that it was taken. */
  const outcome = async () => {
    const stream = client.session();
    const ended = new Promise<string>((resolve) => {
      stream.on("error", ({ code, metadata }: grpc.ServiceError) =>
        resolve(`${grpc.status[code]} ${metadata.get("goku-error-code")}`),
      );
      stream.on("data", () => resolve("taken"));
    });
    stream.write({ message: { $case: "nodeReleased", value: { jobId: "j" } } });
    const how = await ended;
    stream.cancel();
    return how;
  };
  const idle = client.session();
  idle.on("error", () => {});
  idle.write({ message: undefined });
  let how = "";
  while (!how.startsWith("RESOURCE")) how = await outcome(); // until the idle one has come
  assert.equal(how, "RESOURCE_EXHAUSTED RATE_LIMITED");
  idle.cancel();
  while (how !== "taken") how = await outcome();
});
