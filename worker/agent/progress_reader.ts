import { closeSync, openSync, readSync } from "node:fs";
import type { RankProgress } from "../../gen/goku/v1/agent.pb.js";
import {
  COLLECTIVE,
  type CollectiveName,
  GROUP_NAME_BYTES,
  PHASE,
  type PhaseName,
  PROGRESS,
} from "../pages.js";

/** Up to the last word that is read. */
const READ_BYTES = PROGRESS.collectiveGroupName + GROUP_NAME_BYTES;

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
}

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
  };
}

/**
 * Reads the progress page of one rank through the file system, and knows since when it has not changed: the rank stamps
 * changes of its own work, this side sees those of its collectives.
 */
export class ProgressReader {
  private readonly file: number;
  private readonly bytes = new Uint8Array(READ_BYTES);
  private lastText = "";
  private changedMs = 0n;

  constructor(path: string) {
    this.file = openSync(path, "r");
  }

  /** @param nowMs milliseconds of the system-wide monotonic clock (process.hrtime) */
  read(place: { rank: number; pid: number }, nowMs: bigint): RankProgress {
    readSync(this.file, this.bytes, 0, READ_BYTES, 0);
    const { changedMs, ...content } = decodePage(this.bytes);
    const text = Object.values(content).join(" ");
    if (text !== this.lastText) this.changedMs = nowMs;
    this.lastText = text;
    if (changedMs > this.changedMs) this.changedMs = changedMs;
    return { ...place, ...content, unchangedMs: nowMs > this.changedMs ? nowMs - this.changedMs : 0n };
  }

  close(): void {
    closeSync(this.file);
  }
}

/** Milliseconds of the clock that ranks stamp their pages with. */
export function monotonicMs(): bigint {
  return process.hrtime.bigint() / 1_000_000n;
}
