import type { ServerDuplexStream } from "@grpc/grpc-js";
import type { AgentServiceServer, SessionRequest, SessionResponse } from "../../gen/goku/v1/agent.pb.js";
import type { ErrorDetail } from "../../gen/goku/v1/common.pb.js";
import type { AgentMessage, Session } from "../core/contract.js";

/** A session whose peer leaves more than this unread is ended: commands are repeated after its next Hello. */
const UNSENT_MESSAGES_MAX = 1_000;

export interface SessionCallbacks {
  onMessage(from: Session, message: AgentMessage): void;
  onGone(from: Session, reason: string): void;
  /** Null: this controller leads. Otherwise why a new session is refused. */
  refusal(): ErrorDetail | null;
}

type Call = ServerDuplexStream<SessionRequest, SessionResponse>;

/** The agents' streams: numbers them, hands messages up, sends commands down. Translation only. */
export class AgentSessions {
  readonly #callbacks: SessionCallbacks;
  readonly #open = new Map<number, Call>();
  #last = 0;

  constructor(callbacks: SessionCallbacks) {
    this.#callbacks = callbacks;
  }

  service(): AgentServiceServer {
    return { session: (call) => this.#accept(call) };
  }

  /** False: that session is gone, the message is dropped. */
  send(session: number, response: SessionResponse): boolean {
    const call = this.#open.get(session);
    if (!call) return false;
    if (call.writableLength > UNSENT_MESSAGES_MAX) {
      call.destroy();
      return false;
    }
    call.write(response);
    return true;
  }

  /** Says why, then ends that session. */
  refuse(session: number, error: ErrorDetail): void {
    const call = this.#open.get(session);
    if (call) refuse(call, error);
  }

  /** Ends all, for example when leadership is lost; agents try the controllers in turn. */
  refuseAll(error: ErrorDetail): void {
    for (const call of this.#open.values()) refuse(call, error);
  }

  #accept(call: Call): void {
    let from: Session | null = null;
    const gone = (reason: string) => {
      if (from && this.#open.delete(from.session)) this.#callbacks.onGone(from, reason);
      from = null;
    };
    call.on("data", (request: SessionRequest) => {
      const message = request.message;
      if (!message) return;
      if (!from) {
        const refusal = this.#callbacks.refusal();
        if (refusal) return refuse(call, refusal);
        if (message.$case !== "hello") {
          return refuse(call, {
            code: "ARGUMENT_INVALID",
            message: `Cannot open a session: the first message is ${message.$case}, want hello`,
            operation: "",
            peer: undefined,
          });
        }
        from = {
          nodeId: message.value.nodeId,
          incarnation: message.value.incarnation,
          session: ++this.#last,
        };
        this.#open.set(from.session, call);
      }
      this.#callbacks.onMessage(from, message);
    });
    call.on("end", () => {
      gone("the agent ended the session");
      call.end();
    });
    call.on("cancelled", () => gone("the connection was lost"));
    call.on("error", (error) => gone(error.message));
    call.on("close", () => gone("the connection was closed"));
  }
}

/** No address of the leader is given: the store knows its id only, and agents try the controllers in turn. */
function refuse(call: Call, error: ErrorDetail): void {
  call.write({ term: 0n, commandId: 0n, message: { $case: "refused", value: { error, leader: "" } } });
  call.end();
}
