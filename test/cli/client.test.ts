import assert from "node:assert/strict";
import { after, test } from "node:test";
import * as grpc from "@grpc/grpc-js";
import { ControllerClient } from "../../cli/client.js";
import type { AsOf } from "../../controller/api/as_of.js";
import type { ControllerApi } from "../../controller/api/controller_api.js";
import { grpcControllerService } from "../../controller/api/grpc_controller_service.js";
import { GrpcGuard } from "../../controller/api/grpc_guard.js";
import { NotLeaderError } from "../../controller/api/not_leader_error.js";
import { Operations } from "../../controller/api/operations.js";
import { EventLog } from "../../controller/shell/event_log.js";
import { ControllerServiceService, JobStatus } from "../../gen/goku/v1/controller.pb.js";
import { NO_ACCESS } from "../../security/client_access.js";
import { testGuard } from "../support/guards.js";

/** A controller over real gRPC that leads, or says who does; it counts what it is asked. */
class Controller {
  /** host:port of the leader that it names; null: it leads. "": it does not lead, and knows nobody who does. */
  leader: string | null = null;
  /** Of when its answers are; null: of now. */
  asOf: AsOf | null = null;
  asked = 0;
  address = "";
  readonly events = new EventLog(0);
  readonly #server: grpc.Server;

  private constructor() {
    const guard = new GrpcGuard(testGuard().guard);
    this.#server = new grpc.Server({ interceptors: [guard.interceptor] });
    const api = this.#api();
    const service = grpcControllerService(api, new Operations(api, () => {}), guard);
    this.#server.addService(ControllerServiceService, service);
  }

  static async start(): Promise<Controller> {
    const controller = new Controller();
    const port = await new Promise<number>((resolve, reject) => {
      const credentials = grpc.ServerCredentials.createInsecure();
      controller.#server.bindAsync("127.0.0.1:0", credentials, (error, bound) =>
        error ? reject(error) : resolve(bound),
      );
    });
    controller.address = `127.0.0.1:${port}`;
    after(() => controller.leave());
    return controller;
  }

  leave(): void {
    this.#server.forceShutdown();
  }

  #check(): void {
    this.asked++;
    if (this.leader === null) return;
    const leader = this.leader === "" ? null : { grpc: this.leader, rest: `http://${this.leader}` };
    throw new NotLeaderError("Cannot answer: another controller leads", leader);
  }

  #api(): ControllerApi {
    const known: Partial<ControllerApi> = {
      listJobs: () => {
        this.#check();
        return [JobStatus.fromPartial({ name: this.address })];
      },
      requireKnowledge: () => this.#check(),
      asOf: () => this.asOf,
      onOtherLeads: () => () => {},
      pastEvents: (job, afterId) => this.events.past(job, afterId),
      onEvent: (callback) => this.events.listen(callback),
    };
    return known as ControllerApi;
  }
}

function clientOf(addresses: string, onAsOf?: (asOf: AsOf) => void): ControllerClient {
  const client = new ControllerClient(addresses, NO_ACCESS, onAsOf);
  after(() => client.close());
  return client;
}

const answeredBy = async (client: ControllerClient) => (await client.call("listJobs", {})).jobs[0]!.name;

test("ControllerClient: a standby's word leads to the leader, and stays there", async () => {
  const [leader, standby] = [await Controller.start(), await Controller.start()];
  standby.leader = leader.address;
  const client = clientOf(standby.address);
  assert.equal(await answeredBy(client), leader.address);
  assert.equal(await answeredBy(client), leader.address);
  assert.equal(standby.asked, 1);
});

test("ControllerClient: events are followed to the leader, too", async () => {
  const [leader, standby] = [await Controller.start(), await Controller.start()];
  standby.leader = leader.address;
  leader.events.add({ timeMs: 1, job: "", kind: "phase", message: "of the leader" });
  const seen: string[] = [];
  const request = { job: "", afterId: 0n, follow: false };
  for await (const { message } of clientOf(standby.address).events(request)) seen.push(message);
  assert.deepEqual(seen, ["of the leader"]);
});

test("ControllerClient: a leader that has gone is not asked for ever: who named it is asked again", async () => {
  const [first, second, standby] = [
    await Controller.start(),
    await Controller.start(),
    await Controller.start(),
  ];
  standby.leader = first.address;
  const client = clientOf(standby.address);
  assert.equal(await answeredBy(client), first.address);
  first.leave();
  standby.leader = second.address;
  await assert.doesNotReject(async () => {
    // What was under way when the connection broke may have been carried out, so it is not repeated unasked.
    const answer = await answeredBy(client).catch(() => answeredBy(client));
    assert.equal(answer, second.address);
  });
});

test("ControllerClient: of several controllers the next is asked where one is not there, or knows no leader", async () => {
  const [gone, ignorant, leader] = [
    await Controller.start(),
    await Controller.start(),
    await Controller.start(),
  ];
  gone.leave();
  ignorant.leader = "";
  const client = clientOf([gone, ignorant, leader].map(({ address }) => address).join(","));
  assert.equal(await answeredBy(client), leader.address);
});

test("ControllerClient: standbys that send it round in circles are left after a few hops", async () => {
  const [a, b] = [await Controller.start(), await Controller.start()];
  a.leader = b.address;
  b.leader = a.address;
  await assert.rejects(clientOf(a.address).call("listJobs", {}), { code: "NOT_LEADER" });
  assert.equal(a.asked + b.asked, 4);
});

test("ControllerClient: in plain text it goes to no address beyond this machine that was not given", async () => {
  const standby = await Controller.start();
  standby.leader = "controller.example:7070";
  await assert.rejects(clientOf(standby.address).call("listJobs", {}), {
    code: "NOT_LEADER",
    message: /another controller leads; without TLS it is asked only where it is named: .*--controller.*--ca/,
  });
  assert.equal(standby.asked, 1);
});

test("ControllerClient: an answer from memory is taken where nobody else answers, and told with its time", async () => {
  const [first, second, third] = [
    await Controller.start(),
    await Controller.start(),
    await Controller.start(),
  ];
  const told: AsOf[] = [];
  const client = clientOf([first, second, third].map(({ address }) => address).join(","), (asOf) =>
    told.push(asOf),
  );
  first.asOf = { atMs: 5_000, storeSilentMs: 4_000 };
  second.leader = "";
  third.leave();
  assert.equal(await answeredBy(client), first.address);
  assert.deepEqual(told, [first.asOf]);
  second.asOf = { atMs: 6_000, storeSilentMs: null };
  second.leader = null;
  assert.equal(await answeredBy(client), second.address, "what is newer");
  assert.deepEqual(told[1], second.asOf);
  second.asOf = null;
  assert.equal(await answeredBy(client), second.address, "who leads");
  assert.equal(told.length, 2);
});
