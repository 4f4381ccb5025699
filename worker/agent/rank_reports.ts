import type { Logger } from "pino";
import { GokuError } from "../../job/errors.js";
import type { FromRank } from "../rank_messages.js";
import type { Report } from "./outbox.js";
import type { Place } from "./place.js";
import type { Previewer } from "./previewer.js";
import type { ProcessEnd, RankProcess } from "./rank_process.js";
import type { RankStates } from "./rank_states.js";
import type { RunRecord } from "./run_record/run_record.js";
import { failureReport, stepReport, wireError, wireState } from "./wire.js";

export interface RankReportsOptions {
  states: RankStates;
  previewer: Previewer;
  record: RunRecord;
  log: Logger;
  report: (report: Report) => void;
  place: () => Place | null;
  /** A step was completed. */
  stepped: (replicated: boolean) => void;
}

/** What rank processes say, and how they end, told to the controller as far as it belongs to the present generation. */
export class RankReports {
  private readonly options: RankReportsOptions;
  private readonly exits = new Map<number, Report>();

  constructor(options: RankReportsOptions) {
    this.options = options;
  }

  /** A generation begins: nobody of it has ended yet. */
  begin(): void {
    this.exits.clear();
  }

  /** World rank of a process that has ended in this generation; null: there is none of that pid. */
  endedRank(pid: number): number | null {
    const gone = [...this.exits].find(([, exit]) => exit.$case === "rankExited" && exit.value.pid === pid);
    return gone?.[0] ?? null;
  }

  receive(process: RankProcess, message: FromRank): void {
    if (message.kind === "hello" || message.kind === "program") return; // the process's own business
    const { states, previewer, record, log, report } = this.options;
    if (message.kind === "save") {
      states.save(process, message);
      return;
    }
    // A step that was completed stays so, whatever has begun since: what it left may be restored.
    if (message.kind === "step" && message.rank === 0) {
      const step = stepReport(BigInt(message.generation), message.metrics);
      report(step);
      record.add(step.value);
    }
    const place = this.options.place();
    // A process that has been given a newer generation may still say how it left the older one.
    if (place === null || !this.isPresent(process) || BigInt(message.generation) !== place.generation) return;
    const { generation } = process;
    const rank = process.rank!;
    switch (message.kind) {
      case "ready":
        process.stage = "ready";
        report(this.ready(place, process, message.port));
        return;
      case "connected":
        process.stage = "connected";
        report({ $case: "rankConnected", value: { generation, rank } });
        return;
      case "restored": {
        process.stage = "restored";
        place.dataDigest = message.dataDigest;
        const parts = message.parts.map((part) => ({ ...part, bytes: BigInt(part.bytes) }));
        const value = { generation, rank, state: wireState(message.state), parts };
        report({ $case: "rankRestored", value });
        return;
      }
      case "step":
        this.options.stepped(message.metrics.replicatedStep > 0);
        return;
      case "confirmed":
        states.confirmed(message.state);
        return;
      case "replicate":
        states.replicate(process, message);
        return;
      case "preview": {
        const name = { generation, state: wireState(message.state) };
        if (message.skipped === null) report({ $case: "previewDue", value: name });
        else {
          const outcome = { $case: "skipped", value: message.skipped } as const;
          report({ $case: "previewEnded", value: { ...name, outcome } });
        }
        return;
      }
      case "snapshotFailed": {
        const { code, message: reason } = message;
        log.error({ rank, code, reason }, "snapshot failed");
        const error = new GokuError(code, `rank ${rank} cannot keep the state in memory: ${reason}`);
        const value = { generation, state: wireState(message.state), error: wireError(error) };
        report({ $case: "checkpointFailed", value });
        return;
      }
      case "twinsDiffer": {
        const { odd, ranks, tensor, start, length, chunks } = message.difference;
        log.error({ ranks, odd, tensor, start, length, chunks }, "twins differ");
        const elements = { start: BigInt(start), length: BigInt(length) };
        const equalStep = message.equalStep < 0 ? undefined : BigInt(message.equalStep);
        const place = { ranks, oddRanks: odd, tensor, ...elements, chunks };
        const value = { generation, rank, state: wireState(message.state), ...place, equalStep };
        report({ $case: "twinsDiffer", value });
        return;
      }
      case "finished": {
        const { reason } = message;
        process.stage = reason === "yield" ? "left" : "finished"; // its state is in memory alone
        void record.flush();
        const value = { generation, rank, state: wireState(message.state), reason };
        report({ $case: "rankFinished", value });
        return;
      }
      case "failed": {
        const ready = process.stage !== "preparing";
        process.stage = "left";
        previewer.end(); // as when a rank dies here: the abort follows
        log.warn({ rank, code: message.code, reason: message.message }, "rank failed");
        report(failureReport(message, { ready, lastLines: process.lastLines }));
      }
    }
  }

  /** A process has ended and its output has been read. */
  ended(process: RankProcess, end: ProcessEnd): void {
    const { rank, pid, generation, dismissed, lastLines } = process;
    const { log, report } = this.options;
    const level = dismissed ? "debug" : "warn";
    log[level]({ rank, pid, ...end, lastLines: lastLines.slice(-3) }, "rank process ended");
    if (rank === null || dismissed || !this.isPresent(process)) return;
    const progress = process.progress();
    const exit: Report = {
      $case: "rankExited",
      value: { generation, rank, pid, ...end, lastLines, progress },
    };
    this.exits.set(rank, exit);
    report(exit);
  }

  /** The end of a rank, told again; of one that had gone before anybody knew of it, that it is not there. */
  repeatEnd(generation: bigint, rank: number): void {
    const gone = { pid: 0, exitCode: -1, signal: "", lastLines: [], progress: undefined };
    const exit = this.exits.get(rank);
    this.options.report(exit ?? { $case: "rankExited", value: { generation, rank, ...gone } });
  }

  private isPresent(process: RankProcess): boolean {
    return process.generation === (this.options.place()?.generation ?? 0n);
  }

  private ready(place: Place, process: RankProcess, port: number): Report {
    const { states } = this.options;
    const { generation, pid } = process;
    const rank = process.rank!;
    states.leaveOthers(process);
    const heldStates = states.heldByRank(place, rank).map((held) => wireState(held.state));
    return { $case: "rankReady", value: { generation, rank, pid, port, heldStates } };
  }
}
