import { Metadata, type ServerUnaryCall, type ServerWritableStream, type sendUnaryData } from "@grpc/grpc-js";
import type { ControllerServiceServer } from "../../gen/goku/v1/controller.pb.js";
import { asOfHeaders } from "./as_of.js";
import type { Caller } from "./audit.js";
import type { ControllerApi } from "./controller_api.js";
import { serviceError } from "./error_metadata.js";
import { followEvents } from "./follow_events.js";
import type { GrpcGuard } from "./grpc_guard.js";
import type { Operations } from "./operations.js";

/** Of a file that is sent. */
const PART_BYTES = 1 << 20;

/** The gRPC face of the API: translation only. `guard` has let in every call that comes here. */
export function grpcControllerService(
  api: ControllerApi,
  operations: Operations,
  guard: GrpcGuard,
): ControllerServiceServer {
  const unary = <Q, R>(handle: (request: Q, caller: Caller) => Promise<R>) => {
    return (call: ServerUnaryCall<Q, R>, callback: sendUnaryData<R>): void => {
      handle(call.request, guard.callerOf(call)).then(
        (response) => {
          mark(call, api);
          callback(null, response);
        },
        (error: unknown) => callback(serviceError(error)),
      );
    };
  };
  return {
    submitJob: unary(async ({ job, resumeUri }, caller) => ({
      job: await operations.submitJob(caller, job, resumeUri ?? null),
    })),
    listJobs: unary(async () => ({ jobs: api.listJobs() })),
    getJob: unary(async ({ name }) => {
      const { status: job, spec, history } = api.getJob(name);
      return { job, spec: spec as unknown as { [key: string]: unknown }, history };
    }),
    stopJob: unary(async ({ name, graceSeconds }, caller) => ({
      job: await operations.stopJob(caller, name, graceSeconds ?? null),
    })),
    saveJob: unary(async ({ name }, caller) => {
      await operations.saveJob(caller, name);
      return {};
    }),
    listNodes: unary(async () => ({ nodes: api.listNodes() })),
    releaseNode: unary(async ({ nodeId }, caller) => {
      await operations.releaseNode(caller, nodeId);
      return {};
    }),
    drainNode: unary(async ({ nodeId }, caller) => {
      await operations.drainNode(caller, nodeId);
      return {};
    }),
    diagnose: unary(async ({ nodeIds }, caller) => ({
      diagnosis: await operations.diagnose(caller, nodeIds),
    })),
    getDiagnosis: unary(async () => ({ diagnosis: api.diagnosis() })),
    listCheckpoints: unary(async ({ job }) => ({ checkpoints: api.listCheckpoints(job) })),
    listPreviews: unary(async ({ job }) => ({ previews: await api.listPreviews(job) })),
    getPreviewFile: async (call) => {
      const { job, step, name } = call.request;
      let closed = () => {};
      try {
        closed = guard.guard.openFile(guard.callerOf(call));
        const { buffer, byteOffset, byteLength } = await api.previewFile(job, { step: Number(step), name });
        const bytes = Buffer.from(buffer, byteOffset, byteLength);
        for (let at = 0; at < byteLength && !call.cancelled; at += PART_BYTES)
          await written(call, { data: bytes.subarray(at, at + PART_BYTES) });
        call.end();
      } catch (error) {
        call.emit("error", serviceError(error));
      } finally {
        closed();
      }
    },
    listIncidents: unary(async ({ job }) => ({ incidents: api.listIncidents(job) })),
    getLogs: unary(async ({ job, rank, limit }) => ({
      lines: api.logs(job, rank ?? null, limit === 0 ? 200 : limit),
    })),
    watchEvents: async (call) => {
      const left = new AbortController();
      call.on("cancelled", () => left.abort());
      call.on("close", () => left.abort());
      let ended = () => {};
      try {
        ended = guard.guard.openEvents(guard.callerOf(call));
        const events = followEvents(api, { ...call.request, pastMax: null }, left.signal);
        mark(call, api);
        for await (const event of events) {
          await written(call, event);
        }
        call.end();
      } catch (error) {
        call.emit("error", serviceError(error));
      } finally {
        ended();
      }
    },
  };
}

/** An answer from memory says so. */
function mark(call: { sendMetadata(metadata: Metadata): void }, api: ControllerApi): void {
  const headers = Object.entries(asOfHeaders(api.asOf()));
  if (headers.length === 0) return;
  const metadata = new Metadata();
  for (const [name, value] of headers) metadata.set(name, value);
  call.sendMetadata(metadata);
}

/** Resolves when more can be written: what a slow reader has not taken is not piled up here. */
function written<Request, Response>(
  call: ServerWritableStream<Request, Response>,
  message: Response,
): Promise<void> {
  if (call.write(message) || call.cancelled) return Promise.resolve();
  return new Promise((resolve) => {
    const ends = ["drain", "cancelled", "close"];
    const done = () => {
      for (const end of ends) call.off(end, done);
      resolve();
    };
    for (const end of ends) call.on(end, done);
  });
}
