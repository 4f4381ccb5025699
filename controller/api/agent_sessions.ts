import type { ServerDuplexStream } from "@grpc/grpc-js";
import {
  type AgentServiceServer,
  AgentServiceService,
  type SessionRequest,
  type SessionResponse,
} from "../../gen/goku/v1/agent.pb.js";
import type { ErrorDetail } from "../../gen/goku/v1/common.pb.js";
import { GokuError } from "../../job/errors.js";
import { hostOf, isLoopback } from "../../security/loopback.js";
import type { AgentMessage, Session } from "../core/contract.js";
import { checkHello } from "./check_hello.js";
import { encodeCommand } from "./encode_command.js";
import { serviceError } from "./error_metadata.js";
import type { NotLeaderError } from "./not_leader_error.js";
import { PacedWrites } from "./paced_writes.js";
import { StreamLimits } from "./stream_limits.js";

/** A session whose peer leaves more than this unread is ended: commands are repeated after its next Hello. */
const UNSENT_MESSAGES_MAX = 1_000;
/** A stream on which nobody says hello for so long is ended. */
const HELLO_MS_MAX = 10_000;

/**
 * Streams that have not said hello yet. Agents do so in the packet that opens the stream, so that thousands who come back at
 * once stay far below. One address may be a gateway with many nodes behind it.
 */
export const UNGREETED_MAX = { perCaller: 256, total: 4_096 } as const;

/** Connects that may be on their way at once: with 12,288 ranks each takes about 160 kB. */
const CONNECTS_MAX = 64;

/** The service as `gen/` describes it, but for how its commands become bytes. */
export const agentService = {
  session: { ...AgentServiceService.session, responseSerialize: encodeCommand },
};

export interface SessionCallbacks {
  onMessage(from: Session, message: AgentMessage): void;
  onGone(from: Session, reason: string): void;
  /** Null: this controller leads. Otherwise why a new session is refused, and who leads. */
  refusal(): NotLeaderError | null;
}

type Call = ServerDuplexStream<SessionRequest, SessionResponse>;

/** The agents' streams: numbers them, hands messages up, sends commands down. Translation only. */
export class AgentSessions {
  readonly #callbacks: SessionCallbacks;
  readonly #open = new Map<number, Call>();
  readonly #paced = new PacedWrites(CONNECTS_MAX);
  readonly #ungreeted: StreamLimits;
  #last = 0;

  constructor(
    callbacks: SessionCallbacks,
    ungreetedMax: { perCaller: number; total: number } = UNGREETED_MAX,
  ) {
    this.#callbacks = callbacks;
    this.#ungreeted = new StreamLimits(ungreetedMax, {
      action: "open a session",
      advice: "streams on which nobody has said hello are too many, try again",
    });
  }

  service(): AgentServiceServer {
    return { session: (call) => this.#accept(call) };
  }

  /** False: that session is gone, the message is dropped. */
  send(session: number, response: SessionResponse): boolean {
    const call = this.#open.get(session);
    if (!call) return false;
    if (call.writableLength > UNSENT_MESSAGES_MAX) {
      end(call, `${UNSENT_MESSAGES_MAX} messages wait for the agent, which does not read them`);
      return false;
    }
    const large = response.message?.$case === "connect";
    this.#paced.write(session, large, (done) => void call.write(response, done));
    return true;
  }

  /** Says why, then ends that session. */
  refuse(session: number, error: ErrorDetail): void {
    const call = this.#open.get(session);
    if (call) refuse(call, error);
  }

  /** Ends all, when leadership is lost; agents try the controllers in turn. */
  refuseAll(why: NotLeaderError): void {
    for (const call of this.#open.values()) refuseForLeader(call, why);
  }

  #accept(call: Call): void {
    let from: Session | null = null;
    let greeted: () => void;
    try {
      greeted = this.#ungreeted.open(callerOf(call));
    } catch (error) {
      call.emit("error", serviceError(error));
      return;
    }
    const gone = (reason: string) => {
      clearTimeout(silence);
      if (from && this.#open.delete(from.session)) {
        this.#paced.forget(from.session);
        this.#callbacks.onGone(from, reason);
      }
      from = null;
    };
    const silence = setTimeout(
      () => end(call, `no hello came in ${HELLO_MS_MAX / 1000} s`),
      HELLO_MS_MAX,
    ).unref();
    call.on("data", (request: SessionRequest) => {
      const message = request.message;
      if (!message || call.writableEnded) return; // what comes after the end of a session belongs to none
      if (!from) {
        const refusal = this.#callbacks.refusal();
        if (refusal) return refuseForLeader(call, refusal);
        if (message.$case !== "hello")
          return refuse(call, invalid(`the first message is ${message.$case}, want hello`));
        const wrong = checkHello(message.value);
        if (wrong !== null) return refuse(call, invalid(wrong));
        clearTimeout(silence);
        greeted();
        from = {
          nodeId: message.value.nodeId,
          incarnation: message.value.incarnation,
          session: ++this.#last,
        };
        this.#open.set(from.session, call);
      }
      if (message.$case !== "reports") {
        this.#callbacks.onMessage(from, message);
        return;
      }
      for (const { message: one } of message.value.reports) {
        // Any of them may end the session.
        if (from !== null && one !== undefined && one.$case !== "reports" && one.$case !== "hello")
          this.#callbacks.onMessage(from, one);
      }
    });
    call.on("end", () => {
      gone("the agent ended the session");
      call.end();
    });
    call.on("error", (error) => gone(error.message));
    // Only what has really closed makes room for another: what was refused may be left unread for ever.
    call.on("cancelled", () => {
      greeted();
      gone("the connection was lost");
    });
    call.on("close", () => {
      greeted();
      gone("the connection was closed");
    });
  }
}

/** Null: all agents of this machine share the address, nothing is told by it. */
function callerOf(call: Call): string | null {
  const host = hostOf(call.getPeer());
  return isLoopback(host) ? null : host;
}

/** By its status alone, which needs nobody to read what was written before. */
function end(call: Call, why: string): void {
  call.emit("error", serviceError(new GokuError("ARGUMENT_INVALID", `Cannot go on with a session: ${why}`)));
}

function invalid(found: string): ErrorDetail {
  const message = `Cannot open a session: ${found}`;
  return { code: "ARGUMENT_INVALID", message, operation: "", peer: undefined };
}

function refuseForLeader(call: Call, { code, message, leader }: NotLeaderError): void {
  refuse(call, { code, message, operation: "", peer: undefined }, leader?.grpc ?? "");
}

/** @param leader host:port of who leads; empty: not known, or not the reason */
function refuse(call: Call, error: ErrorDetail, leader = ""): void {
  call.write({ term: 0n, commandId: 0n, message: { $case: "refused", value: { error, leader } } });
  call.end();
}
