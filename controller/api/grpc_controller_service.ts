import type { ServerUnaryCall, sendUnaryData } from "@grpc/grpc-js";
import type { ControllerServiceServer } from "../../gen/goku/v1/controller.pb.js";
import type { ControllerApi } from "./controller_api.js";
import { serviceError } from "./error_metadata.js";
import { followEvents } from "./follow_events.js";

/** The gRPC face of the API: translation only. */
export function grpcControllerService(api: ControllerApi): ControllerServiceServer {
  return {
    submitJob: unary(async ({ job, resumeUri }) => ({ job: await api.submitJob(job, resumeUri ?? null) })),
    listJobs: unary(async () => ({ jobs: api.listJobs() })),
    getJob: unary(async ({ name }) => {
      const { status: job, spec, history } = api.getJob(name);
      return { job, spec: spec as unknown as { [key: string]: unknown }, history };
    }),
    stopJob: unary(async ({ name }) => ({ job: await api.stopJob(name) })),
    saveJob: unary(async ({ name }) => {
      await api.saveJob(name);
      return {};
    }),
    listNodes: unary(async () => ({ nodes: api.listNodes() })),
    releaseNode: unary(async ({ nodeId }) => {
      await api.releaseNode(nodeId);
      return {};
    }),
    listCheckpoints: unary(async ({ job }) => ({ checkpoints: api.listCheckpoints(job) })),
    listIncidents: unary(async ({ job }) => ({ incidents: api.listIncidents(job) })),
    getLogs: unary(async ({ job, rank, limit }) => ({
      lines: api.logs(job, rank ?? null, limit === 0 ? 200 : limit),
    })),
    watchEvents: async (call) => {
      const left = new AbortController();
      call.on("cancelled", () => left.abort());
      call.on("close", () => left.abort());
      try {
        for await (const event of followEvents(api, call.request, left.signal)) {
          if (!call.write(event))
            await new Promise((resolve) => call.once("drain", resolve).once("close", resolve));
        }
        call.end();
      } catch (error) {
        call.emit("error", serviceError(error));
      }
    },
  };
}

function unary<Q, R>(handle: (request: Q) => Promise<R>) {
  return (call: ServerUnaryCall<Q, R>, callback: sendUnaryData<R>): void => {
    handle(call.request).then(
      (response) => callback(null, response),
      (error: unknown) => callback(serviceError(error)),
    );
  };
}
