import * as grpc from "@grpc/grpc-js";
import {
  AgentServiceService,
  type Hello,
  type SessionRequest,
  type SessionResponse,
} from "../../../gen/goku/v1/agent.pb.js";
import type { Report } from "../../../worker/agent/outbox.js";

export type Command = NonNullable<SessionResponse["message"]>;
export type ReportKind = Report["$case"];
export type ReportValue<K extends ReportKind> = Extract<Report, { $case: K }>["value"];

interface Waiter {
  matches: (node: string, report: Report) => boolean;
  resolve: (report: Report) => void;
}

/**
 * A controller that only says what a test tells it to say, over the real wire. It remembers every report of every node;
 * `next` takes them in order, each once.
 */
export class ScriptedController {
  port = 0;
  readonly term: bigint;
  private server = new grpc.Server();
  private readonly streams = new Map<string, grpc.ServerDuplexStream<SessionRequest, SessionResponse>>();
  private readonly unread: { node: string; report: Report }[] = [];
  private waiters: Waiter[] = [];
  private commandLast = 0n;
  private readonly heartbeatMs: number;

  private constructor(term: bigint, heartbeatMs: number) {
    this.term = term;
    this.heartbeatMs = heartbeatMs;
  }

  /** @param port 0: any free one; a later controller may take the port of one that was closed. */
  static async start(options: { port?: number; term?: bigint; heartbeatMs?: number } = {}) {
    const controller = new ScriptedController(options.term ?? 1n, options.heartbeatMs ?? 100);
    await controller.listen(options.port ?? 0);
    return controller;
  }

  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  /** Sends a command to a node; `as` overrides its fence. */
  send(node: string, message: Command, as: { term?: bigint; commandId?: bigint } = {}): bigint {
    const commandId = as.commandId ?? ++this.commandLast;
    const stream = this.streams.get(node);
    if (!stream) throw new Error(`no stream of ${node}`);
    stream.write({ term: as.term ?? this.term, commandId, message });
    return commandId;
  }

  /** The oldest report of that kind that was not taken yet and matches; waits for it. */
  async next<K extends ReportKind>(
    node: string,
    kind: K,
    which: (value: ReportValue<K>) => boolean = () => true,
  ): Promise<ReportValue<K>> {
    const matches = (from: string, report: Report) =>
      from === node && report.$case === kind && which(report.value as ReportValue<K>);
    const at = this.unread.findIndex(({ node: from, report }) => matches(from, report));
    if (at >= 0) return this.unread.splice(at, 1)[0]!.report.value as ReportValue<K>;
    const report = await new Promise<Report>((resolve) => this.waiters.push({ matches, resolve }));
    return report.value as ReportValue<K>;
  }

  /** Reports of a kind that nobody took. */
  untaken(kind: ReportKind): Report[] {
    return this.unread.flatMap(({ report }) => (report.$case === kind ? [report] : []));
  }

  hello(node: string): Promise<Hello> {
    return this.next(node, "hello");
  }

  /** Ends as a killed controller would: no goodbye. */
  close(): void {
    this.server.forceShutdown();
    this.streams.clear();
  }

  private async listen(port: number): Promise<void> {
    this.server.addService(AgentServiceService, {
      session: (stream: grpc.ServerDuplexStream<SessionRequest, SessionResponse>) => this.accept(stream),
    });
    this.port = await new Promise<number>((resolve, reject) => {
      const credentials = grpc.ServerCredentials.createInsecure();
      this.server.bindAsync(`127.0.0.1:${port}`, credentials, (error, bound) =>
        error ? reject(error) : resolve(bound),
      );
    });
  }

  private accept(stream: grpc.ServerDuplexStream<SessionRequest, SessionResponse>): void {
    let node = "";
    stream.on("data", ({ message }: SessionRequest) => {
      if (!message) return;
      if (message.$case === "hello") {
        node = message.value.nodeId;
        this.streams.set(node, stream);
        const welcome = { controllerId: "scripted", heartbeatIntervalMs: this.heartbeatMs };
        this.send(node, { $case: "welcome", value: welcome });
      }
      for (const one of message.$case === "reports" ? message.value.reports : [{ message }]) {
        if (one.message !== undefined && one.message.$case !== "reports") this.take(node, one.message);
      }
    });
    stream.on("error", () => {});
    stream.on("end", () => stream.end());
  }

  private take(node: string, report: Report): void {
    const waiter = this.waiters.find((one) => one.matches(node, report));
    if (!waiter) {
      this.unread.push({ node, report });
      return;
    }
    this.waiters = this.waiters.filter((one) => one !== waiter);
    waiter.resolve(report);
  }
}
