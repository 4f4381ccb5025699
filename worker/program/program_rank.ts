import type { ErrorCode } from "../../job/errors.js";
import type { CommEndpoint } from "../engine/native.js";
import type { EndReason, FromRank, StepMetrics, ToRank } from "../rank_messages.js";
import { HeartbeatFile } from "./heartbeat_file.js";
import { HeartbeatServer } from "./heartbeat_server.js";
import { type ProgramPlace, programEnvironment } from "./program_environment.js";
import { ProgramPage } from "./program_page.js";
import { type ProgramEnd, ProgramProcess } from "./program_process.js";
import type { Beat } from "./read_beat.js";
import { type ReservedPort, reservePort } from "./reserve_port.js";

export interface ProgramRankOptions {
  /** Of the processes of this rank; see process_family.ts. */
  mark: string;
  inherited: Readonly<Record<string, string | undefined>>;
  send: (message: FromRank) => void;
  /** A program runs in this session; null: none any more. */
  onSession: (session: number | null) => void;
}

/** `left`: it has failed or was told to leave, and waits for the next generation. */
type Stage = "left" | "prepared" | "connected" | "restored" | "running" | "finished";

/** A generation that has failed is left in this time: nothing of it can be saved, and the next one waits for its ports and memory. */
const ABORT_GRACE_MS = 2_000;

/** Everything that lives as long as one place in one generation. */
interface Place {
  order: ProgramPlace;
  page: ProgramPage;
  port: ReservedPort;
  file: HeartbeatFile;
  server: HeartbeatServer;
  heartbeatUrl: string;
  members: readonly CommEndpoint[];
}

/**
 * A rank whose work is a program of its own. It speaks to its agent as ranks of ours do, so that members, faults and
 * recovery are the same: it is ready at once, holds no state, and `run` starts the program, one process for each
 * generation. The program's heartbeats become the steps and micro-steps of the rank's progress page.
 */
export class ProgramRank {
  private readonly options: ProgramRankOptions;
  private generation = 0n;
  private stage: Stage = "left";
  private place: Place | null = null;
  private program: ProgramProcess | null = null;
  /** Of the present generation: asked to end in order, told to leave, or neither. */
  private asked: "stop" | "abort" | null = null;
  private running: Promise<void> = Promise.resolve();
  private chain: Promise<void> = Promise.resolve();
  private beatCount = 0;
  private stepLast = 0;
  private beatMsLast: number | null = null;

  constructor(options: ProgramRankOptions) {
    this.options = options;
  }

  /** Takes a command of the agent; returns at once. Commands of an older generation are dropped. */
  receive(message: ToRank): void {
    switch (message.kind) {
      case "prepareProgram":
        if (BigInt(message.generation) <= this.generation) return;
        this.generation = BigInt(message.generation);
        this.program?.stop(ABORT_GRACE_MS);
        this.asked = this.stage === "running" ? "abort" : null;
        this.enqueue(() => this.prepare(message));
        return;
      case "connect":
        this.enqueue(() => this.advance(message.generation, "prepared", () => this.connect(message.members)));
        return;
      case "restore":
        this.enqueue(() => this.advance(message.generation, "connected", () => this.restore()));
        return;
      case "run":
        this.enqueue(() => this.advance(message.generation, "restored", () => this.run()));
        return;
      case "request":
        if (message.request === "stop") this.stop();
        return;
      case "abort":
        if (BigInt(message.generation) < this.generation) return;
        this.asked = "abort";
        this.program?.stop(ABORT_GRACE_MS);
        this.enqueue(() => this.abort(message));
        return;
      default: // about states that are kept, of which there are none
    }
  }

  private enqueue(work: () => Promise<void>): void {
    this.chain = this.chain.then(work);
  }

  private async advance(generation: string, from: Stage, work: () => Promise<void> | void): Promise<void> {
    if (BigInt(generation) !== this.generation || this.stage !== from || this.asked === "abort") return;
    try {
      await work();
    } catch (error) {
      this.leave("INTERNAL", (error as Error).message);
    }
  }

  private async prepare(order: ProgramPlace): Promise<void> {
    await this.running;
    if (BigInt(order.generation) !== this.generation) return;
    await this.dismiss();
    this.asked = null;
    this.stage = "left";
    this.beatCount = 0;
    this.stepLast = 0;
    this.beatMsLast = null;
    try {
      const page = new ProgramPage(order.progressPage);
      const onBeat = (beat: Beat) => this.beat(beat);
      const server = new HeartbeatServer(onBeat);
      const [port, heartbeatUrl] = await Promise.all([reservePort(order.host), server.listen()]);
      const file = new HeartbeatFile(order.heartbeatFile, onBeat);
      this.place = { order, page, port, file, server, heartbeatUrl, members: [] };
      page.set({ generation: this.generation, step: 0, microStep: 0, phase: "forming" });
      this.stage = "prepared";
      this.tell({ kind: "ready", generation: order.generation, rank: order.rank, port: port.port });
    } catch (error) {
      const { generation, rank } = order;
      const message = `Cannot prepare a program: ${(error as Error).message}`;
      this.tell({ kind: "failed", generation, rank, code: "INTERNAL", message, peer: -1, operation: "" });
    }
  }

  private async dismiss(): Promise<void> {
    const { place } = this;
    this.place = null;
    if (place === null) return;
    place.file.stop();
    place.server.close();
    place.page.close();
    await place.port.release(); // again, if it got as far as that
  }

  /** The port is free before any program is started: one that looks for rank 0 too early is refused, and tries again. */
  private async connect(members: readonly CommEndpoint[]): Promise<void> {
    const place = this.place!;
    place.members = members;
    await place.port.release();
    this.stage = "connected";
    this.tell({ kind: "connected", generation: place.order.generation, rank: place.order.rank });
  }

  private restore(): void {
    const { generation, rank } = this.place!.order;
    const state = { generation: "0", step: 0 };
    this.stage = "restored";
    this.tell({ kind: "restored", generation, rank, state, dataDigest: "", parts: [], seconds: 0 });
  }

  /** Starts the program and returns: it runs beside the commands. */
  private run(): void {
    const place = this.place!;
    const { order, members, heartbeatUrl } = place;
    this.stage = "running";
    if (this.asked === "stop") {
      this.finish("stop");
      return;
    }
    const { mark, inherited, onSession } = this.options;
    const { command, cwd } = order.job.trainer;
    const env = programEnvironment({ inherited, place: order, members, heartbeatUrl });
    place.page.set({ phase: "program" });
    const program = new ProgramProcess({ command, cwd, env, mark, onStarted: onSession });
    this.program = program;
    place.file.start();
    this.running = program.ended.then((end) => this.ended(end));
  }

  private stop(): void {
    this.asked ??= "stop";
    const { order } = this.place ?? {};
    if (order !== undefined) this.program?.stop(1000 * order.job.trainer.stop_grace_seconds);
  }

  /** It has gone with all that it started. */
  private ended(end: ProgramEnd): void {
    this.program = null;
    this.options.onSession(null);
    this.place?.file.stop(); // a last heartbeat counts
    if (this.asked === "abort") return; // whoever told it to leave is answered by `abort`
    if (end.kind === "exited" && (end.code === 0 || this.asked === "stop")) {
      this.finish(this.asked === "stop" ? "stop" : "steps");
    } else if (end.kind === "signalled" && this.asked === "stop") {
      this.finish("stop");
    } else {
      this.leave("PROGRAM_FAILED", failureText(end));
    }
  }

  private finish(reason: EndReason): void {
    const { order, page } = this.place!;
    const { generation, rank } = order;
    page.set({ phase: "finished" });
    this.stage = "finished";
    this.tell({ kind: "finished", generation, rank, state: { generation, step: this.stepLast }, reason });
  }

  private async abort(message: Extract<ToRank, { kind: "abort" }>): Promise<void> {
    await this.running;
    if (BigInt(message.generation) < this.generation || this.stage === "left") return;
    this.leave("COMM_ABORTED", `Cannot go on in generation ${this.generation}: ${message.message}`);
  }

  private leave(code: ErrorCode, message: string): void {
    if (this.place === null) return;
    const { order, page } = this.place;
    const { generation, rank } = order;
    this.stage = "left";
    page.set({ phase: "idle" });
    this.tell({ kind: "failed", generation, rank, code, message, peer: -1, operation: "program" });
  }

  /** Heartbeats that come before or after the program are of an earlier one. */
  private beat({ step, loss }: Beat): void {
    if (this.stage !== "running" || this.place === null) return;
    this.beatCount = (this.beatCount % 0xffff_ffff) + 1;
    const isStep = step !== null && step > this.stepLast;
    this.place.page.set({ microStep: this.beatCount, ...(isStep ? { step } : {}) });
    if (!isStep) return;
    const { generation, rank } = this.place.order;
    const nowMs = performance.now();
    const steps = step - this.stepLast;
    const seconds = this.beatMsLast === null ? 0 : (nowMs - this.beatMsLast) / 1000 / steps;
    this.beatMsLast = nowMs;
    this.stepLast = step;
    this.tell({
      kind: "step",
      generation,
      rank,
      metrics: { ...UNTOLD, step, loss, stepSeconds: seconds, completedMs: Date.now() },
    });
  }

  private tell(message: FromRank): void {
    this.options.send(message);
  }
}

/** What programs do not tell of a step. */
const UNTOLD: StepMetrics = {
  step: 0,
  loss: null,
  gradNorm: null,
  lr: 0,
  applied: true,
  tokens: 0,
  images: 0,
  videos: 0,
  stepSeconds: 0,
  computeSeconds: 0,
  commWaitSeconds: 0,
  dataWaitSeconds: 0,
  snapshotSeconds: 0,
  optimizerSeconds: 0,
  waits: null,
  longestPauseSeconds: 0,
  modelFlops: 0,
  completedMs: 0,
  memoryPeakBytes: 0,
  packFill: 0,
  unreadable: 0,
  replicatedStep: 0,
  replay: null,
  lossSpike: null,
  gradientSpike: null,
  leftOut: null,
  rollBack: null,
  snapshotSkipped: false,
  savePutOff: false,
};

function failureText(end: ProgramEnd): string {
  switch (end.kind) {
    case "exited":
      return `the program exited with code ${end.code}`;
    case "signalled": {
      const hint = end.signal === "SIGKILL" ? " (out of memory?)" : "";
      return `the program was ended by ${end.signal}${hint}`;
    }
    case "unstarted":
      return `the program cannot be started: ${end.why}`;
  }
}
