import assert from "node:assert/strict";
import { test } from "node:test";
import * as grpc from "@grpc/grpc-js";
import type { ControllerApi } from "../../../controller/api/controller_api.js";
import { grpcControllerService } from "../../../controller/api/grpc_controller_service.js";
import { GrpcGuard } from "../../../controller/api/grpc_guard.js";
import type { GuardOptions } from "../../../controller/api/guard.js";
import { Operations } from "../../../controller/api/operations.js";
import {
  ControllerServiceClient,
  ControllerServiceService,
  JobStatus,
} from "../../../gen/goku/v1/controller.pb.js";
import { bearerInterceptor } from "../../../security/client_access.js";
import { createToken } from "../../../security/tokens.js";
import { tableOf, testGuard } from "../../support/guards.js";

const operate = createToken("alice", "operate");
const read = createToken("ci", "read");
const tokens = () => tableOf([operate.line, read.line]);

/** Over a real connection; `asked` counts what came past the guard. */
async function serve(t: { after: (end: () => void) => void }, options: Partial<GuardOptions> = {}) {
  const asked: string[] = [];
  const listeners = new Set<() => void>();
  const api = {
    stopJob: async (name: string) => {
      asked.push(name);
      return JobStatus.fromPartial({ name });
    },
    submitJob: async () => JobStatus.fromPartial({}),
    listJobs: () => [],
    requireKnowledge: () => {},
    asOf: () => null,
    onOtherLeads: () => () => {},
    pastEvents: () => [],
    onEvent: (callback: () => void) => {
      listeners.add(callback);
      return () => listeners.delete(callback);
    },
  } as unknown as ControllerApi;
  const { guard, told } = testGuard({ tokens, ...options });
  const grpcGuard = new GrpcGuard(guard);
  const operations = new Operations(api, (entry) => told.push(entry));
  const server = new grpc.Server({
    interceptors: [grpcGuard.interceptor],
    "grpc.max_receive_message_length": 100_000,
  });
  server.addService(ControllerServiceService, grpcControllerService(api, operations, grpcGuard));
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, bound) =>
      error ? reject(error) : resolve(bound),
    );
  });
  const clients: grpc.Client[] = [];
  t.after(() => {
    for (const client of clients) client.close();
    server.forceShutdown();
  });
  const client = (token: string | null) => {
    const interceptors = token === null ? [] : [bearerInterceptor(token)];
    const made = new ControllerServiceClient(`127.0.0.1:${port}`, grpc.credentials.createInsecure(), {
      interceptors,
    });
    clients.push(made);
    return made;
  };
  return { client, asked, told, guard, listeners };
}

const stop = (client: ControllerServiceClient, name = "shapes") =>
  new Promise<Partial<grpc.ServiceError>>((resolve) =>
    client.stopJob({ name }, (error) => resolve(error ?? { code: grpc.status.OK })),
  );

test("gRPC: a call is let in by its token, and told under its name; others are answered before what they sent is read", async (t) => {
  const { client, asked, told } = await serve(t);
  assert.equal((await stop(client(operate.token))).code, grpc.status.OK);
  const stranger = await stop(client(null));
  assert.equal(stranger.code, grpc.status.UNAUTHENTICATED);
  assert.equal(stranger.metadata?.get("goku-error-code")[0], "UNAUTHENTICATED");
  assert.equal((await stop(client(read.token))).code, grpc.status.PERMISSION_DENIED);
  // Larger than the server takes: whoever may not ask at all hears that, not how much he may send.
  const huge = "x".repeat(200_000);
  assert.equal((await stop(client(null), huge)).code, grpc.status.UNAUTHENTICATED);
  assert.equal((await stop(client(operate.token), huge)).code, grpc.status.RESOURCE_EXHAUSTED);
  assert.deepEqual(asked, ["shapes"]);
  assert.deepEqual(
    told.map(({ who, action, outcome }) => [who, action, outcome]),
    [
      ["alice", "stop a job", "DONE"],
      ["", "stop a job", "UNAUTHENTICATED"],
      ["ci", "stop a job", "PERMISSION_DENIED"],
      ["", "stop a job", "UNAUTHENTICATED"],
    ],
  );
});

test("gRPC: more calls than the rate, or streams than the limit, end with RESOURCE_EXHAUSTED and the catalogue's code", async (t) => {
  const { client } = await serve(t, { requestsPerSecond: 1 });
  const answers: Partial<grpc.ServiceError>[] = [];
  for (let i = 0; i < 4; i++) answers.push(await stop(client(operate.token)));
  assert.deepEqual(
    answers.map(({ code }) => code),
    [0, 0, 0, grpc.status.RESOURCE_EXHAUSTED],
  );
  assert.equal(answers[3]!.metadata?.get("goku-error-code")[0], "RATE_LIMITED");
});

test("gRPC: a stream ends with its token, for the reader and for who serves it; calls that are over are forgotten", async (t) => {
  let table = tokens();
  const { client, guard, listeners } = await serve(t, { tokens: () => table });
  const call = client(read.token).watchEvents({ job: "", afterId: 0n, follow: true });
  const ended = new Promise<Partial<grpc.ServiceError>>((resolve) =>
    call.on("error", resolve).on("data", () => {}),
  );
  while (listeners.size === 0) await new Promise((resolve) => setImmediate(resolve));
  guard.recheck();
  table = tableOf([operate.line]);
  guard.recheck();
  const { code, details } = await ended;
  assert.equal(code, grpc.status.UNAUTHENTICATED);
  assert.match(details!, /Cannot go on to follow events/);
  while (listeners.size > 0) await new Promise((resolve) => setImmediate(resolve));
});

test("gRPC: event streams are counted, and one that its reader left makes room", async (t) => {
  const { client } = await serve(t);
  const reader = client(read.token);
  const follow = () => reader.watchEvents({ job: "", afterId: 0n, follow: true });
  const refused = (call: ReturnType<typeof follow>) =>
    new Promise<Partial<grpc.ServiceError>>((resolve) => call.on("error", resolve).on("data", () => {}));
  const open = Array.from({ length: 32 }, follow);
  for (const call of open) call.on("error", () => {});
  const extra = await refused(follow());
  assert.equal(extra.metadata?.get("goku-error-code")[0], "RATE_LIMITED");
  assert.match(extra.details!, /ci has 32 open/);
  open[0]!.cancel();
  // The server hears of the end a moment later; until then it refuses.
  for (let isIn = false; !isIn; ) {
    const call = follow();
    isIn = await Promise.race([
      refused(call).then(() => false),
      new Promise<boolean>((resolve) => reader.listJobs({}, () => setImmediate(resolve, true))),
    ]);
    if (isIn) call.cancel();
  }
});
