import * as grpc from "@grpc/grpc-js";
import {
  AgentServiceClient,
  type Hello,
  type SessionRequest,
  type SessionResponse,
  type Welcome,
} from "../../gen/goku/v1/agent.pb.js";
import { type ClientAccess, controllerChannel } from "../../security/client_access.js";
import { HOPS_MAX, mayFollow } from "../../security/may_follow.js";
import { nextTryMs } from "./backoff.js";
import type { Report } from "./outbox.js";
import { ReportGatherer } from "./report_gatherer.js";

/** No Welcome for so long: the next controller is tried. */
const WELCOME_TIMEOUT_MS = 5_000;
/** A controller that reads nothing for so much is given up. */
const UNREAD_BYTES_MAX = 8 * 2 ** 20;
/** After a refusal that another try will not change soon. */
const REFUSED_WAIT_MS = 2_000;

/** Its credentials are not accepted; a person has to change something. */
const REFUSALS: ReadonlySet<grpc.status | undefined> = new Set([
  grpc.status.UNAUTHENTICATED,
  grpc.status.PERMISSION_DENIED,
  grpc.status.RESOURCE_EXHAUSTED,
]);

export interface ControllerLinkOptions {
  /** host:port of the controllers, tried in turn. */
  controllers: readonly string[];
  /** Read anew for each connection, so that what was replaced is used from the next on. */
  access: ClientAccess;
  hello: () => Hello;
  /** The controller has answered Hello: repeat what may have been lost. False: its term is over, it does not lead. */
  onWelcome: (welcome: Welcome, session: { term: bigint; address: string }) => boolean;
  /** Any other command. */
  onCommand: (command: SessionResponse) => void;
  onDown: (reason: string) => void;
  /** Ranks of this node in the present generation: what they all say soon goes out as one message. */
  ranks: () => number;
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
  /** Times in a row that such an address was tried. */
  private hops = 0;
  private attempt = 0;
  /** When the last leader was lost, or this began. */
  private lostAtMs = performance.now();
  private timer: NodeJS.Timeout | null = null;
  private readonly gatherer = new ReportGatherer();
  private gathering: NodeJS.Timeout | null = null;
  private closed = false;

  constructor(options: ControllerLinkOptions) {
    this.options = options;
  }

  start(): void {
    this.connect();
  }

  /** False: there is no stream, nothing was sent. True: it is sent, or will be with what the node's other ranks say. */
  send(report: Report): boolean {
    if (!this.session || !this.welcomed) return false;
    const nowMs = performance.now();
    this.write(this.gatherer.add(report, { nowMs, ranks: this.options.ranks() }));
    const { dueMs } = this.gatherer;
    if (dueMs !== null) this.gathering ??= setTimeout(() => this.flush(), dueMs - nowMs);
    return true;
  }

  private flush(): void {
    this.write(this.gatherer.take());
  }

  private write(reports: Report[]): void {
    if (this.gathering !== null && this.gatherer.dueMs === null) {
      clearTimeout(this.gathering);
      this.gathering = null;
    }
    const [first] = reports;
    if (!this.session || first === undefined) return;
    const all = { reports: reports.map((message) => ({ message })) };
    this.session.write({ message: reports.length === 1 ? first : { $case: "reports", value: all } });
    if (this.session.writableLength > UNREAD_BYTES_MAX)
      this.session.destroy(new Error("the controller does not read"));
  }

  /** A controller that leads has this stream. */
  get linked(): boolean {
    return this.session !== null && this.welcomed;
  }

  close(): void {
    this.closed = true;
    this.flush();
    if (this.timer) clearTimeout(this.timer);
    this.session?.end();
    this.client?.close();
  }

  private connect(): void {
    if (this.closed) return;
    const { controllers, access, hello } = this.options;
    const address = this.leader ?? controllers[this.next++ % controllers.length]!;
    this.hops = this.leader === null ? 0 : this.hops + 1;
    this.leader = null;
    let channel: ReturnType<typeof controllerChannel>;
    try {
      channel = controllerChannel(access, address);
    } catch (error) {
      this.options.onDown((error as Error).message); // half of a pair may be replaced so far
      this.arm(REFUSED_WAIT_MS, () => this.connect());
      return;
    }
    const client = new AgentServiceClient(address, channel.credentials, {
      ...channel.options,
      // A leader that stands still keeps its connections; the next one leads after 3 s, and has nobody to heal with until then.
      "grpc.keepalive_time_ms": 3_000,
      "grpc.keepalive_timeout_ms": 4_000,
      "grpc.max_receive_message_length": 64 * 2 ** 20,
    });
    const session = client.session();
    this.client = client;
    this.session = session;
    this.arm(WELCOME_TIMEOUT_MS, () => session.destroy(new Error("no Welcome in time")));
    session.on("data", (response: SessionResponse) => {
      if (this.session === session) this.receive(response, address);
    });
    session.on("error", (error: Partial<grpc.ServiceError>) =>
      this.lost(session, error.message ?? "", REFUSALS.has(error.code) ? REFUSED_WAIT_MS : null),
    );
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
      const { controllers: given, access } = this.options;
      const isNews = leader !== address && this.hops < HOPS_MAX;
      if (isNews && mayFollow(leader, { from: address, given, ca: access.ca })) this.leader = leader;
      const wait = error?.code === "NOT_LEADER" ? null : REFUSED_WAIT_MS;
      this.lost(this.session!, error?.message ?? "refused", wait);
    } else if (this.welcomed) this.options.onCommand(response);
  }

  private lost(session: Session, reason: string, waitMs: number | null = null): void {
    if (this.session !== session) return;
    if (this.welcomed) this.lostAtMs = performance.now();
    this.session = null;
    this.welcomed = false;
    this.flush(); // into nothing: what must not get lost is repeated after the next Hello
    session.removeAllListeners();
    session.on("error", () => {}); // echoes of the end
    session.cancel();
    this.client?.close();
    this.client = null;
    if (this.closed) return;
    this.options.onDown(reason);
    this.attempt += 1;
    const { length: controllers } = this.options.controllers;
    const lostMs = performance.now() - this.lostAtMs;
    const nextMs = nextTryMs({ tries: this.attempt, controllers, lostMs, chance: Math.random() });
    this.arm(waitMs ?? nextMs, () => this.connect());
  }

  private arm(ms: number, action: () => void): void {
    if (this.timer) clearTimeout(this.timer);
    this.timer = setTimeout(action, ms);
  }
}
