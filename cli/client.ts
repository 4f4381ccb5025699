import * as grpc from "@grpc/grpc-js";
import { ERROR_CODE_METADATA } from "../controller/api/error_metadata.js";
import {
  ControllerServiceClient,
  type WatchEventsRequest,
  type WatchEventsResponse,
} from "../gen/goku/v1/controller.pb.js";
import { ERRORS, type ErrorCode, GokuError } from "../job/errors.js";

export const DEFAULT_CONTROLLER = "127.0.0.1:7070";

/** How gRPC says that nobody answers, or that the one who did has gone. */
const GONE: ReadonlySet<grpc.status> = new Set([
  grpc.status.UNAVAILABLE,
  grpc.status.DEADLINE_EXCEEDED,
  grpc.status.CANCELLED,
]);

/** A controller, asked one thing at a time; errors come back as GokuErrors of the catalogue. */
export class ControllerClient {
  readonly #address: string;
  readonly #client: ControllerServiceClient;

  constructor(address: string) {
    this.#address = address;
    // A controller that was started again is found at once, also after a long absence.
    this.#client = new ControllerServiceClient(address, grpc.credentials.createInsecure(), {
      "grpc.initial_reconnect_backoff_ms": 100,
      "grpc.max_reconnect_backoff_ms": 1_000,
    });
  }

  /** Calls one unary method by name. */
  call<K extends UnaryName>(method: K, request: UnaryRequest<K>): Promise<UnaryResponse<K>> {
    const deadline = new Date(Date.now() + 10_000);
    return new Promise((resolve, reject) => {
      const answer = (error: grpc.ServiceError | null, response: UnaryResponse<K>) => {
        if (error) reject(this.#translate(error));
        else resolve(response);
      };
      // ts-proto's overloads cannot be picked through a generic name; the mapped types above keep callers honest.
      const invoke = this.#client[method].bind(this.#client) as unknown as (
        request: UnaryRequest<K>,
        metadata: grpc.Metadata,
        options: Partial<grpc.CallOptions>,
        callback: typeof answer,
      ) => void;
      invoke(request, new grpc.Metadata(), { deadline }, answer);
    });
  }

  /** Events as they come; ends when the controller ends the stream. */
  async *events(request: WatchEventsRequest, signal?: AbortSignal): AsyncGenerator<WatchEventsResponse> {
    const stream = this.#client.watchEvents(request);
    const cancel = () => stream.cancel();
    stream.on("error", () => {}); // a cancelled stream says so after nobody reads it any more
    signal?.addEventListener("abort", cancel, { once: true });
    try {
      for await (const event of stream) yield event as WatchEventsResponse;
    } catch (error) {
      if (signal?.aborted) return;
      throw this.#translate(error as grpc.ServiceError);
    } finally {
      signal?.removeEventListener("abort", cancel);
      cancel();
    }
  }

  close(): void {
    this.#client.close();
  }

  #translate(error: grpc.ServiceError): GokuError {
    const code = error.metadata?.get(ERROR_CODE_METADATA)[0]?.toString();
    if (code && Object.hasOwn(ERRORS, code))
      return new GokuError(code as ErrorCode, error.details, { cause: error });
    if (GONE.has(error.code)) {
      return new GokuError(
        "CONTROLLER_UNREACHABLE",
        `Cannot reach a controller at ${this.#address}: ${error.details || "no answer in 10 s"}; start one with "gokuctl controller" or name another with --controller`,
        { cause: error },
      );
    }
    return new GokuError("INTERNAL", `Cannot complete the request: ${error.message}`, { cause: error });
  }
}

type UnaryName =
  | "submitJob"
  | "listJobs"
  | "getJob"
  | "stopJob"
  | "saveJob"
  | "listNodes"
  | "releaseNode"
  | "listCheckpoints"
  | "listIncidents"
  | "getLogs";
type Callback<R> = (error: grpc.ServiceError | null, response: R) => void;
type Method<K extends UnaryName> = ControllerServiceClient[K] extends {
  (request: infer Q, callback: Callback<infer R>): grpc.ClientUnaryCall;
  (request: infer _Q2, metadata: grpc.Metadata, callback: Callback<infer _R2>): grpc.ClientUnaryCall;
  (
    request: infer _Q3,
    metadata: grpc.Metadata,
    options: Partial<grpc.CallOptions>,
    callback: Callback<infer _R3>,
  ): grpc.ClientUnaryCall;
}
  ? { request: Q; response: R }
  : never;
type UnaryRequest<K extends UnaryName> = Method<K>["request"];
type UnaryResponse<K extends UnaryName> = Method<K>["response"];
