import { closeSync, openSync, readSync } from "node:fs";
import type { RankProgress, RankTimes } from "../../gen/goku/v1/agent.pb.js";
import {
  COLLECTIVE,
  type CollectiveName,
  GROUP_NAME_BYTES,
  PHASE,
  type PhaseName,
  PROGRESS,
} from "../pages.js";
import { mainThreadOf } from "../program/process_stat.js";
import type { WaitKind } from "../progress.js";

/** Up to the last word that is read. */
const READ_BYTES = PROGRESS.snapshotsFailed + 8;
/** What moves while a rank works; the times that follow change with the step. */
const MOVING_BYTES = PROGRESS.timedSteps;

/** Pages are looked at so often that a collective's end is noticed when it happens. */
export const WATCH_MS = 100;
/**
 * Most that one look adds to the time in which nothing moved. An agent that was not run for seconds has seen nothing of them, and
 * most likely its ranks were not run either: a frozen machine is nobody's hang, and on a starved one everything takes longer.
 */
const WATCHED_MS_MAX = 250n;
/** A page that moved so lately is nothing to look behind. */
const LOOK_BEHIND_MS = 1_000n;
/** As in ps: stopped, traced, or asleep until something happens. One that waits for a disk or for its turn is at work. */
const BLOCKED_STATES = new Set(["S", "T", "t"]);

/** A progress page in numbers and names. */
export interface PageContent {
  generation: bigint;
  step: bigint;
  microStep: number;
  phase: PhaseName;
  layer: number;
  changedMs: bigint;
  collectiveEntered: bigint;
  collectiveCompleted: bigint;
  /** Snake case, as on the wire; empty: none. */
  collective: string;
  group: string;
  times: RankTimes;
  waitUs: Record<WaitKind, bigint>;
  snapshots: SnapshotsMade;
}

/** By the process behind the page. */
export interface SnapshotsMade {
  /** Newest whole one; `unixMs` 0: there is none yet. */
  step: bigint;
  unixMs: bigint;
  failed: bigint;
}

/** What is not sent with heartbeats: for the metrics of the agent alone. */
export type Unsent = Pick<PageContent, "waitUs" | "snapshots">;

const PHASE_NAMES = new Map<number, PhaseName>(
  Object.entries(PHASE).map(([name, number]) => [number, name as PhaseName]),
);
const COLLECTIVE_NAMES = new Map<number, string>(
  Object.entries(COLLECTIVE).map(([name, number]) => [number, snakeCase(name as CollectiveName)]),
);

function snakeCase(name: CollectiveName): string {
  return name === "none" ? "" : name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** Reads the bytes of a progress page. Pure. */
export function decodePage(bytes: Uint8Array): PageContent {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const name = bytes.subarray(PROGRESS.collectiveGroupName, PROGRESS.collectiveGroupName + GROUP_NAME_BYTES);
  const end = name.indexOf(0);
  const entered = view.getBigUint64(PROGRESS.collectiveEntered, true);
  const any = entered > 0n;
  const word = (offset: number) => view.getBigUint64(offset, true);
  return {
    generation: view.getBigUint64(PROGRESS.generation, true),
    step: view.getBigUint64(PROGRESS.step, true),
    microStep: view.getUint32(PROGRESS.microStep, true),
    phase: PHASE_NAMES.get(view.getUint32(PROGRESS.phase, true)) ?? "idle",
    layer: view.getInt32(PROGRESS.layer, true),
    changedMs: view.getBigUint64(PROGRESS.changedMs, true),
    collectiveEntered: entered,
    collectiveCompleted: view.getBigUint64(PROGRESS.collectiveCompleted, true),
    collective: any ? (COLLECTIVE_NAMES.get(view.getUint32(PROGRESS.collectiveKind, true)) ?? "") : "",
    group: any ? Buffer.from(name.subarray(0, end < 0 ? name.length : end)).toString("latin1") : "",
    times: {
      steps: word(PROGRESS.timedSteps),
      work: word(PROGRESS.timedWork),
      forwardUs: word(PROGRESS.forwardUs),
      backwardUs: word(PROGRESS.backwardUs),
      optimizerUs: word(PROGRESS.optimizerUs),
      dataUs: word(PROGRESS.dataUs),
      waitUs: word(PROGRESS.waitUs),
    },
    waitUs: {
      allGather: word(PROGRESS.waitAllGatherUs),
      reduceScatter: word(PROGRESS.waitReduceScatterUs),
      allReduce: word(PROGRESS.waitAllReduceUs),
      allToAll: word(PROGRESS.waitAllToAllUs),
      vote: word(PROGRESS.waitVoteUs),
    },
    snapshots: {
      step: word(PROGRESS.snapshotStep),
      unixMs: word(PROGRESS.snapshotMs),
      failed: word(PROGRESS.snapshotsFailed),
    },
  };
}

/** Reads the progress page of one rank through the file system, and measures for how long nothing has moved there. */
export class ProgressReader {
  private readonly file: number;
  private readonly bytes = new Uint8Array(READ_BYTES);
  private readonly moving = this.bytes.subarray(0, MOVING_BYTES);
  private readonly before = new Uint8Array(MOVING_BYTES);
  private lookedMs: bigint | null = null;
  private unchangedMs = 0n;
  /** The main thread behind a page that does not move: what it had run for, and since when in `unchangedMs`. */
  private blocked: { ranTicks: number; sinceMs: bigint } | null = null;
  /** As of the last look. */
  unsent: Unsent | null = null;

  constructor(path: string) {
    this.file = openSync(path, "r");
  }

  /** What stood still until now had nothing to do. */
  begin(): void {
    this.unchangedMs = 0n;
    this.blocked = null;
  }

  /** Looks whether anything has moved since the last look. @param nowMs milliseconds of the system-wide monotonic clock */
  watch(nowMs: bigint): void {
    readSync(this.file, this.bytes, 0, READ_BYTES, 0);
    const passedMs = this.lookedMs === null ? 0n : nowMs - this.lookedMs;
    this.lookedMs = nowMs;
    if (Buffer.compare(this.moving, this.before) === 0) {
      this.unchangedMs += passedMs < WATCHED_MS_MAX ? passedMs : WATCHED_MS_MAX;
      return;
    }
    this.before.set(this.moving);
    this.unchangedMs = 0n;
  }

  read(place: { rank: number; pid: number }, nowMs: bigint): RankProgress {
    this.watch(nowMs);
    const { changedMs: _, times, waitUs, snapshots, ...content } = decodePage(this.bytes);
    this.unsent = { waitUs, snapshots };
    return {
      ...place,
      ...content,
      times,
      unchangedMs: this.unchangedMs,
      blockedMs: this.blockedMs(place.pid),
    };
  }

  /** For how long of the unchanged time the main thread has got no processor time, and asked for none. */
  private blockedMs(pid: number): bigint {
    const thread = this.unchangedMs < LOOK_BEHIND_MS ? null : mainThreadOf(pid);
    if (thread === null || !BLOCKED_STATES.has(thread.state)) {
      this.blocked = null;
      return 0n;
    }
    const { ranTicks } = thread;
    if (this.blocked?.ranTicks !== ranTicks || this.blocked.sinceMs > this.unchangedMs)
      this.blocked = { ranTicks, sinceMs: this.unchangedMs };
    return this.unchangedMs - this.blocked.sinceMs;
  }

  close(): void {
    closeSync(this.file);
  }
}

/** Milliseconds of the system-wide monotonic clock. */
export function monotonicMs(): bigint {
  return process.hrtime.bigint() / 1_000_000n;
}
