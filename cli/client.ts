import * as grpc from "@grpc/grpc-js";
import { type AsOf, readAsOf } from "../controller/api/as_of.js";
import { ERROR_CODE_METADATA, LEADER_METADATA } from "../controller/api/error_metadata.js";
import {
  ControllerServiceClient,
  type GetPreviewFileRequest,
  type GetPreviewFileResponse,
  type WatchEventsRequest,
  type WatchEventsResponse,
} from "../gen/goku/v1/controller.pb.js";
import { ERRORS, type ErrorCode, GokuError } from "../job/errors.js";
import { type ClientAccess, controllerChannel, NO_ACCESS } from "../security/client_access.js";
import { HOPS_MAX, mayFollow } from "../security/may_follow.js";

export const DEFAULT_CONTROLLER = "127.0.0.1:7070";

/** How gRPC says that nobody answers, or that the one who did has gone. */
const GONE: ReadonlySet<grpc.status> = new Set([
  grpc.status.UNAVAILABLE,
  grpc.status.DEADLINE_EXCEEDED,
  grpc.status.CANCELLED,
]);

/** How long one controller may take. */
const ANSWER_MS = 10_000;
/** The same for others than one that has answered already, from memory. */
const SECOND_ANSWER_MS = 2_000;

/** Nothing was sent, so that asking another controller repeats nothing. */
const NEVER_SENT = /^No connection established|^Name resolution failed/;

/**
 * Controllers, asked one thing at a time; errors come back as GokuErrors of the catalogue. One that does not lead says who
 * does, which is asked instead from then on (docs/security.md says where to a client goes). One that cannot lead for want of
 * its store answers from memory: that is taken where nobody else answers, and `onAsOf` hears of when it is.
 */
export class ControllerClient {
  readonly #given: readonly string[];
  readonly #access: ClientAccess;
  readonly #clients = new Map<string, ControllerServiceClient>();
  readonly #onAsOf: (asOf: AsOf) => void;
  /** Who is asked now. */
  #address: string;

  /**
   * Throws ARGUMENT_INVALID where a file of the credentials is wrong.
   * @param addresses host:port of a controller, or of several, comma-separated
   * @param onAsOf for each answer from memory
   */
  constructor(addresses: string, access: ClientAccess = NO_ACCESS, onAsOf: (asOf: AsOf) => void = () => {}) {
    this.#given = addresses.split(",");
    this.#access = access;
    this.#onAsOf = onAsOf;
    this.#address = this.#given[0]!;
    for (const address of this.#given) this.#clientOf(address);
  }

  #clientOf(address: string): ControllerServiceClient {
    const known = this.#clients.get(address);
    if (known !== undefined) return known;
    const { credentials, options } = controllerChannel(this.#access, address);
    // A controller that was started again is found at once, also after a long absence.
    const client = new ControllerServiceClient(address, credentials, {
      ...options,
      "grpc.initial_reconnect_backoff_ms": 100,
      "grpc.max_reconnect_backoff_ms": 1_000,
    });
    this.#clients.set(address, client);
    return client;
  }

  /** Calls one unary method by name. */
  call<K extends UnaryName>(method: K, request: UnaryRequest<K>): Promise<UnaryResponse<K>> {
    return this.#ask((client, answerMs) => this.#callOne(client, { method, request, answerMs }));
  }

  /** A file of a preview, whole. */
  previewFile(request: GetPreviewFileRequest): Promise<Buffer> {
    return this.#ask(async (client) => {
      const parts: Uint8Array[] = [];
      const stream = client.getPreviewFile(request) as AsyncIterable<GetPreviewFileResponse>;
      for await (const { data } of stream) parts.push(data);
      return { answer: Buffer.concat(parts), asOf: null };
    });
  }

  /** The answer of whoever leads, else one from memory: may be asked more than once. */
  async #ask<Answer>(
    question: (client: ControllerServiceClient, answerMs: number) => Promise<Answered<Answer>>,
  ): Promise<Answer> {
    let old: (Answered<Answer> & { from: string }) | null = null;
    for (let tries = 1; ; tries++) {
      const address = this.#address;
      try {
        const found = await question(this.#clientOf(address), old === null ? ANSWER_MS : SECOND_ANSWER_MS);
        if (found.asOf === null) return found.answer;
        if (old === null || (old.asOf?.atMs ?? 0) < found.asOf.atMs) old = { ...found, from: address };
        if (tries < this.#given.length) {
          this.#address = this.#givenAfter(address);
          continue;
        }
      } catch (error) {
        if (this.#turn(error as grpc.ServiceError, address, tries)) continue;
        if (old === null) throw this.#translate(error as grpc.ServiceError, address);
      }
      this.#address = old.from;
      this.#onAsOf(old.asOf!);
      return old.answer;
    }
  }

  #callOne<K extends UnaryName>(
    client: ControllerServiceClient,
    { method, request, answerMs }: { method: K; request: UnaryRequest<K>; answerMs: number },
  ): Promise<Answered<UnaryResponse<K>>> {
    const deadline = new Date(Date.now() + answerMs);
    return new Promise((resolve, reject) => {
      let asOf: AsOf | null = null;
      const answer = (error: grpc.ServiceError | null, response: UnaryResponse<K>) => {
        if (error) reject(error);
        else resolve({ answer: response, asOf });
      };
      // ts-proto's overloads cannot be picked through a generic name; the mapped types above keep callers honest.
      const invoke = client[method].bind(client) as unknown as (
        request: UnaryRequest<K>,
        metadata: grpc.Metadata,
        options: Partial<grpc.CallOptions>,
        callback: typeof answer,
      ) => grpc.ClientUnaryCall;
      invoke(request, new grpc.Metadata(), { deadline }, answer).on("metadata", (metadata: grpc.Metadata) => {
        asOf = readAsOf((name) => metadata.get(name)[0]?.toString());
      });
    });
  }

  /** Events as they come; ends when the controller ends the stream. */
  async *events(request: WatchEventsRequest, signal?: AbortSignal): AsyncGenerator<WatchEventsResponse> {
    for (let tries = 1, hasBegun = false; ; tries++) {
      const address = this.#address;
      const stream = this.#clientOf(address).watchEvents(request);
      const cancel = () => stream.cancel();
      stream.on("error", () => {}); // a cancelled stream says so after nobody reads it any more
      signal?.addEventListener("abort", cancel, { once: true });
      try {
        for await (const event of stream) {
          hasBegun = true;
          yield event as WatchEventsResponse;
        }
        return;
      } catch (error) {
        if (signal?.aborted) return;
        const goesOn = this.#turn(error as grpc.ServiceError, address, tries);
        if (hasBegun || !goesOn) throw this.#translate(error as grpc.ServiceError, address);
      } finally {
        signal?.removeEventListener("abort", cancel);
        cancel();
      }
    }
  }

  close(): void {
    for (const client of this.#clients.values()) client.close();
  }

  /** The next of those that were given; the first, after a leader that others named. */
  #givenAfter(address: string): string {
    return this.#given[(this.#given.indexOf(address) + 1) % this.#given.length]!;
  }

  /** Turns to whom to ask after that error. True: the same request may go there at once. */
  #turn(error: grpc.ServiceError, from: string, tries: number): boolean {
    const { leader, isNotLeader } = aboutLeader(error);
    const given = this.#givenAfter(from);
    if (!isNotLeader && !GONE.has(error.code)) return false;
    const { ca } = this.#access;
    const follows = leader !== from && mayFollow(leader, { from, given: this.#given, ca });
    this.#address = follows ? leader : given;
    const isOther = this.#address !== from;
    const isHarmless = isNotLeader || NEVER_SENT.test(error.details);
    return isOther && isHarmless && tries < HOPS_MAX + this.#given.length;
  }

  #translate(error: grpc.ServiceError, address: string): GokuError {
    const code = error.metadata?.get(ERROR_CODE_METADATA)[0]?.toString();
    if (code && Object.hasOwn(ERRORS, code))
      return new GokuError(code as ErrorCode, error.details + this.#whyNotFollowed(error), { cause: error });
    if (GONE.has(error.code)) {
      return new GokuError(
        "CONTROLLER_UNREACHABLE",
        `Cannot reach a controller at ${address}: ${error.details || "no answer in 10 s"}; ${this.#advice(error.details)}`,
        { cause: error },
      );
    }
    return new GokuError("INTERNAL", `Cannot complete the request: ${error.message}`, { cause: error });
  }

  #whyNotFollowed(error: grpc.ServiceError): string {
    const { leader } = aboutLeader(error);
    if (leader === "" || this.#isTls) return "";
    return "; without TLS it is asked only where it is named: add it to --controller, or name the CA with --ca";
  }

  get #isTls(): boolean {
    return this.#access.ca !== null;
  }

  #advice(found: string): string {
    if (this.#isTls && /certificate|altnames|wrong version/i.test(found))
      return "check that --ca is the controller's CA, that its certificate names this address, and that it has TLS";
    const start = 'start one with "gokuctl controller" or name another with --controller';
    if (!this.#isTls && !/ECONNREFUSED|no answer/i.test(found)) return `${start}, or --ca where it has TLS`;
    return start;
  }
}

/** Whether a controller refused because it does not lead, and whom it named; empty: nobody. */
function aboutLeader({ metadata }: grpc.ServiceError): { isNotLeader: boolean; leader: string } {
  const isNotLeader = metadata?.get(ERROR_CODE_METADATA)[0]?.toString() === "NOT_LEADER";
  return { isNotLeader, leader: isNotLeader ? (metadata.get(LEADER_METADATA)[0]?.toString() ?? "") : "" };
}

/** What was answered, and of when it is; null: of now. */
interface Answered<Answer> {
  answer: Answer;
  asOf: AsOf | null;
}

type UnaryName =
  | "submitJob"
  | "listJobs"
  | "getJob"
  | "stopJob"
  | "saveJob"
  | "listNodes"
  | "releaseNode"
  | "diagnose"
  | "getDiagnosis"
  | "drainNode"
  | "listCheckpoints"
  | "listPreviews"
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
