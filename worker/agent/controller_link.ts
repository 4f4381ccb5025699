import * as grpc from "@grpc/grpc-js";
import {
  AgentServiceClient,
  type Hello,
  type SessionRequest,
  type SessionResponse,
  type Welcome,
} from "../../gen/goku/v1/agent.pb.js";
import { backoffMs } from "./backoff.js";
import type { Report } from "./outbox.js";

/** No Welcome for so long: the next controller is tried. */
const WELCOME_TIMEOUT_MS = 5_000;
/** A controller that reads nothing for so much is given up. */
const UNREAD_BYTES_MAX = 8 * 2 ** 20;
/** After a refusal that another try will not change soon. */
const REFUSED_WAIT_MS = 2_000;

export interface ControllerLinkOptions {
  /** host:port of the controllers, tried in turn. */
  controllers: readonly string[];
  hello: () => Hello;
  /** The controller has answered Hello: repeat what may have been lost. False: its term is over, it does not lead. */
  onWelcome: (welcome: Welcome, session: { term: bigint; address: string }) => boolean;
  /** Any other command. */
  onCommand: (command: SessionResponse) => void;
  onDown: (reason: string) => void;
}

type Session = grpc.ClientDuplexStream<SessionRequest, SessionResponse>;

/** The one stream to the leading controller, made again for ever; nothing else of the agent waits for it. */
export class ControllerLink {
  private readonly options: ControllerLinkOptions;
  private session: Session | null = null;
  private client: AgentServiceClient | null = null;
  private welcomed = false;
  private next = 0;
  /** Address that a controller named as the leader's; tried first, once. */
  private leader: string | null = null;
  private attempt = 0;
  private timer: NodeJS.Timeout | null = null;
  private closed = false;

  constructor(options: ControllerLinkOptions) {
    this.options = options;
  }

  start(): void {
    this.connect();
  }

  /** False: there is no stream, nothing was sent. */
  send(report: Report): boolean {
    if (!this.session || !this.welcomed) return false;
    this.session.write({ message: report });
    if (this.session.writableLength > UNREAD_BYTES_MAX)
      this.session.destroy(new Error("the controller does not read"));
    return true;
  }

  /** A controller that leads has this stream. */
  get linked(): boolean {
    return this.session !== null && this.welcomed;
  }

  close(): void {
    this.closed = true;
    if (this.timer) clearTimeout(this.timer);
    this.session?.end();
    this.client?.close();
  }

  private connect(): void {
    if (this.closed) return;
    const { controllers, hello } = this.options;
    const address = this.leader ?? controllers[this.next++ % controllers.length]!;
    this.leader = null;
    const client = new AgentServiceClient(address, grpc.credentials.createInsecure(), {
      "grpc.keepalive_time_ms": 10_000,
      "grpc.keepalive_timeout_ms": 5_000,
      "grpc.max_receive_message_length": 64 * 2 ** 20,
    });
    const session = client.session();
    this.client = client;
    this.session = session;
    this.arm(WELCOME_TIMEOUT_MS, () => session.destroy(new Error("no Welcome in time")));
    session.on("data", (response: SessionResponse) => {
      if (this.session === session) this.receive(response, address);
    });
    session.on("error", (error) => this.lost(session, error.message));
    session.on("end", () => this.lost(session, "the controller ended the session"));
    session.on("close", () => this.lost(session, "the session was closed"));
    session.write({ message: { $case: "hello", value: hello() } });
  }

  private receive(response: SessionResponse, address: string): void {
    const { message } = response;
    if (message?.$case === "welcome") {
      if (this.timer) clearTimeout(this.timer);
      this.welcomed = true;
      this.attempt = 0;
      if (!this.options.onWelcome(message.value, { term: response.term, address }))
        this.lost(this.session!, `its term ${response.term} is over`);
    } else if (message?.$case === "refused") {
      const { error, leader } = message.value;
      if (leader !== "" && leader !== address) this.leader = leader;
      const wait = error?.code === "NOT_LEADER" ? null : REFUSED_WAIT_MS;
      this.lost(this.session!, error?.message ?? "refused", wait);
    } else if (this.welcomed) this.options.onCommand(response);
  }

  private lost(session: Session, reason: string, waitMs: number | null = null): void {
    if (this.session !== session) return;
    this.session = null;
    this.welcomed = false;
    session.removeAllListeners();
    session.on("error", () => {}); // echoes of the end
    session.cancel();
    this.client?.close();
    this.client = null;
    if (this.closed) return;
    this.options.onDown(reason);
    // Another controller may lead: a whole round is tried before the wait grows.
    const round = Math.floor(this.attempt++ / this.options.controllers.length);
    this.arm(waitMs ?? backoffMs(round, Math.random()), () => this.connect());
  }

  private arm(ms: number, action: () => void): void {
    if (this.timer) clearTimeout(this.timer);
    this.timer = setTimeout(action, ms);
  }
}
