import { median } from "../../job/median.js";
import { SIGNALS, type SignalSource } from "../../job/signals/catalogue.js";
import { FLEET_FACTOR, FLEET_MACHINES_MIN } from "../../job/signals/counters.js";
import type { SignalKind } from "../../job/signals/signal_kind.js";

/** One sign of trouble that an agent told, as told last. */
export interface NodeSign extends SignalKind {
  /** In job/signals/catalogue.ts. */
  name: string;
  source: SignalSource;
  /** World rank in `generation`; null: the node. */
  rank: number | null;
  generation: number;
  device: string;
  text: string;
  count: number;
  /** On the node's clock: a repeat is known by it. */
  atMs: number;
  /** On this controller's. */
  heardMs: number;
}

/** What came longer before a fault does not explain it. */
const EXPLAINS_MS = 60_000;
/** The kernel names no process of ours where ranks live in a container: a kill for memory just before the end is taken for theirs. */
const KILLED_MS = 10_000;

/** A fault that is to be explained. */
export interface Unexplained {
  atMs: number;
  generation: number;
  /** Null: the node. */
  rank: number | null;
  /** It was ended by SIGKILL, or what it kept was. */
  killed: boolean;
}

/**
 * The sign nearest to the cause of a fault of a node or of one of its ranks: the machine's own word first, the kernel's before one
 * that a program wrote, then a kill for memory, then what the program said of itself, the last word first. Null: none says
 * who is to be asked. Pure.
 */
export function explaining(signs: readonly NodeSign[], fault: Unexplained): NodeSign | null {
  const recent = signs.filter((sign) => concerns(sign, fault));
  const nearest = Math.min(...recent.map(distance));
  return recent.findLast((sign) => distance(sign) === nearest) ?? null;
}

function concerns(sign: NodeSign, fault: Unexplained): boolean {
  const ageMs = fault.atMs - sign.heardMs;
  if (ageMs > EXPLAINS_MS || sign.cause === "unclear") return false;
  if (sign.rank !== null && sign.generation === fault.generation && fault.rank !== null)
    return sign.rank === fault.rank;
  if (sign.source === "log") return false; // of another rank
  if (sign.name === "kernel.oom_kill") return fault.killed && ageMs <= KILLED_MS;
  return sign.cause === "machine" && sign.action !== "note";
}

function distance({ cause, source, class: cls }: NodeSign): number {
  if (cause === "machine") return source === "log" ? 1 : 0;
  return cls === "out_of_memory" && source === "kernel" ? 2 : 3;
}

/** Whether a machine is alone with what it counts; `others`: the same of other machines, 0 for those that count nothing. Pure. */
export function standsOut(perMinute: number, others: readonly number[]): boolean {
  if (others.length < FLEET_MACHINES_MIN - 1) return true;
  return perMinute > FLEET_FACTOR * median(others);
}

/** What a person reads of it, and of whom it is. */
export function signText(nodeId: string, sign: NodeSign): string {
  return `${sign.rank === null ? nodeId : `rank ${sign.rank} on ${nodeId}`}: ${signWords(sign)}`;
}

export function signWords({ source, name, device, text, count, meaning }: NodeSign): string {
  const about = device === "" ? "" : ` ${device}`;
  const often = count > 1 ? `, ${count} times` : "";
  return `${SOURCE_NAMES[source]}, ${name}${about}${often}: ${text} (${meaning})`;
}

const SOURCE_NAMES: Record<SignalSource, string> = {
  log: "its output",
  kernel: "the kernel's log",
  counter: "its counters",
};

/** Null: this version does not know the kind. */
export function kindOf(name: string): (SignalKind & { source: SignalSource }) | null {
  return SIGNALS.get(name) ?? null;
}
