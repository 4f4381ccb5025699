import assert from "node:assert/strict";
import { after, test } from "node:test";
import * as grpc from "@grpc/grpc-js";
import { ControllerClient } from "../../cli/client.js";
import { followJob } from "../../cli/follow_job.js";
import { watchJob } from "../../cli/watch_job.js";
import type { ControllerApi } from "../../controller/api/controller_api.js";
import { grpcControllerService } from "../../controller/api/grpc_controller_service.js";
import { GrpcGuard } from "../../controller/api/grpc_guard.js";
import { Operations } from "../../controller/api/operations.js";
import { EventLog } from "../../controller/shell/event_log.js";
import { StepCompleted } from "../../gen/goku/v1/agent.pb.js";
import { ControllerServiceService, JobPhase, JobStatus } from "../../gen/goku/v1/controller.pb.js";
import { GokuError } from "../../job/errors.js";
import type { Job } from "../../job/job.js";
import { testGuard } from "../support/guards.js";

const SUBMITTED_MS = 1_000;

/** A controller of one job over real gRPC; what it says is up to the test. */
class OneJobController {
  readonly log = new EventLog(0);
  status = JobStatus.fromPartial({
    name: "shapes",
    phase: JobPhase.RUNNING,
    stepsTotal: 10n,
    submittedAt: new Date(SUBMITTED_MS),
  });
  /** So many questions are answered as by a controller that has not read its records yet. */
  denials = 0;
  asked = 0;
  address = "";
  #server = new grpc.Server();

  async listen(): Promise<void> {
    const guard = new GrpcGuard(testGuard().guard);
    this.#server = new grpc.Server({ interceptors: [guard.interceptor] });
    const api = this.#api();
    const operations = new Operations(api, () => {});
    this.#server.addService(ControllerServiceService, grpcControllerService(api, operations, guard));
    const address = this.address || "127.0.0.1:0";
    const port = await new Promise<number>((resolve, reject) => {
      this.#server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error, bound) =>
        error ? reject(error) : resolve(bound),
      );
    });
    this.address = `127.0.0.1:${port}`;
  }

  /** Ends every connection without a word, as a killed process does. */
  leave(): void {
    this.#server.forceShutdown();
  }

  step(step: number, timeMs = SUBMITTED_MS + step): void {
    const completed = StepCompleted.fromPartial({ step: BigInt(step), loss: 1 / step, applied: true });
    this.log.add({ timeMs, job: "shapes", kind: "step", message: `step ${step}`, step: completed });
  }

  end(phase = JobPhase.COMPLETED): void {
    this.status = { ...this.status, phase };
    this.log.add({ timeMs: SUBMITTED_MS + 99, job: "shapes", kind: "phase", message: "over" });
  }

  #api(): ControllerApi {
    const known = {
      getJob: () => {
        this.asked++;
        if (this.denials-- > 0) throw new GokuError("NOT_LEADER", "Cannot answer: not yet");
        return { status: this.status, spec: {} as Job, history: [] };
      },
      requireKnowledge: () => {},
      asOf: () => null,
      onOtherLeads: () => () => {},
      pastEvents: (job: string, afterId: bigint) => this.log.past(job, afterId),
      onEvent: (callback: Parameters<ControllerApi["onEvent"]>[0]) => this.log.listen(callback),
      isOver: () => this.status.phase !== JobPhase.RUNNING,
    };
    return known as Partial<ControllerApi> as ControllerApi;
  }
}

async function open(): Promise<{ controller: OneJobController; client: ControllerClient }> {
  const controller = new OneJobController();
  await controller.listen();
  const client = new ControllerClient(controller.address);
  after(() => {
    client.close();
    controller.leave();
  });
  return { controller, client };
}

test("followJob() goes on where it was after the controller was away, and after it knew nothing at first", async () => {
  const { controller, client } = await open();
  controller.step(1);
  let absences = 0;
  const seen: number[] = [];
  const onAway = () => {
    absences++;
    controller.denials = 1;
    controller.step(3);
    controller.end();
    void controller.listen();
  };
  for await (const event of followJob(client, "shapes", { onAway })) {
    if (event.step) seen.push(Number(event.step.step));
    if (seen.length === 1 && event.step) controller.step(2);
    if (event.step?.step === 2n) controller.leave();
  }
  assert.deepEqual(seen, [1, 2, 3]);
  assert.equal(absences, 1);
  assert.ok(controller.denials < 0, "it was asked again after it knew nothing");
});

test("followJob() leaves out the events of an earlier job of that name and ends with the job's last status", async () => {
  const { controller, client } = await open();
  controller.step(9, SUBMITTED_MS - 1);
  controller.step(1);
  controller.end(JobPhase.STOPPED);
  const seen: string[] = [];
  let last: JobStatus | null = null;
  const onStatus = (job: JobStatus) => {
    last = job;
  };
  for await (const event of followJob(client, "shapes", { onStatus })) seen.push(event.message);
  assert.deepEqual(seen, ["step 1", "over"]);
  assert.equal((last as JobStatus | null)?.phase, JobPhase.STOPPED);
});

test("watchJob() takes steps from the events and does not ask for the job after each", async () => {
  const { controller, client } = await open();
  for (let step = 1; step <= 300; step++) controller.step(step);
  controller.end();
  const write = process.stdout.write;
  process.stdout.write = (() => true) as typeof process.stdout.write;
  try {
    await watchJob(client, { json: true }, "shapes", () => 0);
  } finally {
    process.stdout.write = write;
  }
  assert.equal(controller.asked, 2);
});
