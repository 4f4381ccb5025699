import * as grpc from "@grpc/grpc-js";
import { ERROR_CODE_METADATA } from "../controller/api/error_metadata.js";
import { ControllerServiceClient } from "../gen/goku/v1/controller.pb.js";
import { ERRORS, type ErrorCode, GokuError } from "../job/errors.js";

export const DEFAULT_CONTROLLER = "127.0.0.1:7070";

/** A controller, asked one thing at a time; errors come back as GokuErrors of the catalogue. */
export class ControllerClient {
  readonly #address: string;
  readonly #client: ControllerServiceClient;

  constructor(address: string) {
    this.#address = address;
    this.#client = new ControllerServiceClient(address, grpc.credentials.createInsecure());
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
  async *events(request: Parameters<ControllerServiceClient["watchEvents"]>[0], signal?: AbortSignal) {
    const stream = this.#client.watchEvents(request);
    signal?.addEventListener("abort", () => stream.cancel(), { once: true });
    try {
      for await (const event of stream)
        yield event as import("../gen/goku/v1/controller.pb.js").WatchEventsResponse;
    } catch (error) {
      if ((error as grpc.ServiceError).code === grpc.status.CANCELLED && signal?.aborted) return;
      throw this.#translate(error as grpc.ServiceError);
    }
  }

  close(): void {
    this.#client.close();
  }

  #translate(error: grpc.ServiceError): GokuError {
    const code = error.metadata?.get(ERROR_CODE_METADATA)[0]?.toString();
    if (code && Object.hasOwn(ERRORS, code))
      return new GokuError(code as ErrorCode, error.details, { cause: error });
    if (error.code === grpc.status.UNAVAILABLE || error.code === grpc.status.DEADLINE_EXCEEDED) {
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
