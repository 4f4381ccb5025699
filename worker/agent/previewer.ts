import { mkdirSync, rmSync } from "node:fs";
import path from "node:path";
import type { Logger } from "pino";
import type { StateName } from "../../checkpoint/state.js";
import { stateKey } from "../../checkpoint/state.js";
import type { PreviewEnded } from "../../gen/goku/v1/agent.pb.js";
import { GokuError } from "../../job/errors.js";
import type { Job } from "../../job/job.js";
import { judgePreviewMemory, previewMemory } from "../../job/preview_memory.js";
import type { PeerAccess } from "../peer_channel.js";
import type { FromPreview } from "../preview_messages.js";
import type { MemorySource } from "../rank_messages.js";
import type { Report } from "./outbox.js";
import { PreviewProcess } from "./preview_process.js";
import type { ProcessRecords } from "./process_records.js";
import { wireError, wireState } from "./wire.js";

export interface PreviewOrder {
  job: Job;
  jobId: string;
  generation: bigint;
  source: MemorySource;
  peers: PeerAccess;
}

export interface PreviewerOptions {
  /** Folder for what a preview writes before it is stored; emptied. */
  scratch: string;
  records: ProcessRecords;
  log: Logger;
  report: (report: Report) => void;
  /** Bytes that this agent may take of the machine's memory. */
  memoryBytes: () => number;
  /** Bytes of the node's memory that are free. */
  availableBytes?: () => number;
}

/** Draws previews, one at a time, each in a process of its own; nobody waits for it, and it is ended at any moment. */
export class Previewer {
  private readonly options: PreviewerOptions;
  private drawing: { order: PreviewOrder; process: PreviewProcess } | null = null;
  /** Drawn, or begun, last: an order of that state is a repeat. */
  private last: string | null = null;
  private readonly leaving = new Set<PreviewProcess>();

  constructor(options: PreviewerOptions) {
    this.options = options;
    rmSync(options.scratch, { recursive: true, force: true });
  }

  /** Begins; a repeat changes nothing. What is under way gives way, since whoever decides has given it up. */
  draw(order: PreviewOrder): void {
    const { state } = order.source;
    const key = stateKey(state);
    const name = `${order.jobId} ${key}`;
    if (this.last === name) return;
    this.end();
    this.last = name;
    const { records, log, availableBytes = () => process.availableMemory() } = this.options;
    const { total } = previewMemory(order.job);
    const nodeBytes = this.options.memoryBytes();
    const verdict = judgePreviewMemory({ neededBytes: total, availableBytes: availableBytes(), nodeBytes });
    if (!verdict.fits) {
      this.ended(order, { $case: "skipped", value: verdict.reason });
      return;
    }
    const scratch = path.join(this.options.scratch, key);
    mkdirSync(scratch, { recursive: true });
    const { job, jobId, source, peers } = order;
    const drawn = new PreviewProcess(
      { kind: "draw", job, jobId, source, peers, scratch, bytesMax: total },
      records,
      {
        onMessage: (message) => this.receive(drawn, order, message),
        onEnded: (how) => this.lost(drawn, order, how),
      },
    );
    this.drawing = { order, process: drawn };
    this.leaving.add(drawn);
    void drawn.gone.then(() => {
      this.leaving.delete(drawn);
      rmSync(scratch, { recursive: true, force: true });
    });
    log.info({ step: state.step, pid: drawn.pid, bytesMax: total }, "preview begun");
  }

  /** The generation ends, or is about to: nothing more is told of what was being drawn. */
  end(): void {
    const { drawing } = this;
    this.drawing = null;
    if (drawing === null) return;
    drawing.process.kill();
    this.options.log.info({ step: drawing.order.source.state.step }, "preview ended with its generation");
  }

  /** Ends what is under way and waits until it has gone. */
  async close(): Promise<void> {
    this.end();
    await Promise.all([...this.leaving].map(({ gone }) => gone));
  }

  private receive(process: PreviewProcess, order: PreviewOrder, message: FromPreview): void {
    if (this.drawing?.process !== process) return;
    switch (message.kind) {
      case "booted":
        return;
      case "read":
        this.options.report({ $case: "previewRead", value: nameOf(order) });
        return;
      case "drawn": {
        this.drawing = null;
        const { uri, bytes, seconds, peakBytes } = message;
        this.options.log.info({ uri, seconds, peakBytes }, "preview drawn");
        this.ended(order, { $case: "drawn", value: { uri, bytes: BigInt(bytes), seconds } });
        return;
      }
      case "failed": {
        const { code, message: reason } = message;
        this.fail(order, new GokuError(code, reason));
      }
    }
  }

  private lost(process: PreviewProcess, order: PreviewOrder, how: string): void {
    if (this.drawing?.process !== process) return;
    this.fail(order, new GokuError("PREVIEW_FAILED", `Cannot draw: the process ${how}`));
  }

  private fail(order: PreviewOrder, error: GokuError): void {
    this.drawing = null;
    this.options.log.warn({ code: error.code, reason: error.message }, "preview failed");
    this.ended(order, { $case: "failed", value: wireError(error) });
  }

  private ended(order: PreviewOrder, outcome: NonNullable<PreviewEnded["outcome"]>): void {
    this.options.report({ $case: "previewEnded", value: { ...nameOf(order), outcome } });
  }
}

function nameOf({ generation, source }: PreviewOrder): {
  generation: bigint;
  state: ReturnType<typeof wireState>;
} {
  return { generation, state: wireState(source.state as StateName) };
}
