import { closeSync, existsSync, mkdirSync, openSync } from "node:fs";
import path from "node:path";
import { GokuError } from "../job/errors.js";

/**
 * Named places at which a fault can be made to happen, so that tests and drills hit exactly the phase they mean
 * (docs/failpoints.md). Set by the environment, for example
 * `GOKU_FAILPOINTS="collective.entered@12/1:kill,snapshot.write@9/2:stop"`, that is `name[@step][/rank]:action`.
 * Each one but `slow`, `poison` and `flood` fires once over all restarts when GOKU_FAILPOINT_DIR names a folder for its marker files, else once a
 * process.
 * Unset, a failpoint is one comparison.
 */
export const FAILPOINT_NAMES = [
  "prepare.before", // rank: it has a place, no memory is mapped yet
  "connect.before", // rank: all peers known, no group connected yet
  "restore.before", // rank: before the state is read or initialised
  "data.before", // rank: before the packs of a step are asked for
  "forward.block", // rank: before the forward pass of a block
  "backward.block", // rank: before the backward pass of a block
  "collective.entered", // rank: a collective was started and is not waited for yet
  "vote.before", // rank: gradients are reduced, the vote is not cast
  "optimizer.before", // rank: voted, no weight changed
  "optimizer.after", // rank: the new state is written, and not sealed
  "snapshot.write", // rank: half of the new state is written
  "save.write", // agent: before a chunk of a durable save is written
  "save.commit", // agent: everything is written but the commit record
  "save.committed", // agent: the commit record is durable, nobody was told
  "preview.read", // preview: before the weights are read
  "preview.draw", // preview: the weights are read, nothing is drawn yet
  "preview.write", // preview: the pictures are there and not yet written
  "selfcheck.memory", // self-check: a pattern is in memory and not yet compared
  "selfcheck.matrix", // self-check: a product is there and not yet compared
  "selfcheck.copy", // self-check: before memory is copied
  "selfcheck.disk", // self-check: bytes are written and synced, and not yet read
  "selfcheck.loopback", // self-check: before the node's own address is called
  "selfcheck.collective", // self-check: a sum over two nodes is there and not yet compared
  "selfcheck.device.start", // self-check of a device: before the device is touched
  "selfcheck.device.memory", // self-check of a device: a pattern is in its memory and not yet read back
  "selfcheck.device.matrix", // self-check of a device: a product is there and not yet compared
  "selfcheck.device.upload", // self-check of a device: before memory is copied to it, while that is timed
  "selfcheck.device.download", // self-check of a device: before memory is copied from it, while that is timed
  "selfcheck.device.copy", // self-check of a device: before its memory is copied within it, while that is timed
] as const;
export type FailpointName = (typeof FAILPOINT_NAMES)[number];

/**
 * kill: SIGKILL to itself. segfault: SIGSEGV to itself. stop: SIGSTOP to itself. stall: blocks the thread for ever. hold: until
 * it is released from outside. nan: makes the loss NaN (where there is one). poison: as nan, in every pass, as bad data would.
 * surge and flood: the same with a loss that is a thousand times larger.
 * slow: keeps the thread busy for some milliseconds, in every pass. flip: turns one bit of the rank's weights, or of what a
 * self-check is about to compare. mark: nothing but its marker.
 */
export const FAILPOINT_ACTIONS = [
  "kill",
  "segfault",
  "stop",
  "throw",
  "enospc",
  "eio",
  "nan",
  "poison",
  "surge",
  "flood",
  "stall",
  "slow",
  "flip",
  "hold",
  "mark",
] as const;
export type FailpointAction = (typeof FAILPOINT_ACTIONS)[number];

/** What spoils a loss, and by which factor. */
const SPOILING: ReadonlyMap<FailpointAction, number> = new Map([
  ["nan", Number.NaN],
  ["poison", Number.NaN],
  ["surge", 1_000],
  ["flood", 1_000],
]);
/** Those that fire in every pass of their step. */
const LASTING: ReadonlySet<FailpointAction> = new Set(["slow", "poison", "flood"]);
/** Places where a loss is at hand to be spoilt. */
const NAN_NAMES: readonly FailpointName[] = ["forward.block", "backward.block", "vote.before"];
/** Places where bits are at hand to be turned. */
const FLIP_NAMES: readonly FailpointName[] = [
  "data.before",
  "vote.before",
  "optimizer.before",
  "selfcheck.memory",
  "selfcheck.matrix",
  "selfcheck.disk",
  "selfcheck.collective",
  "selfcheck.device.memory",
  "selfcheck.device.matrix",
];

export interface Failpoint {
  name: FailpointName;
  /** Only in this step, `slow` from it on; null: any. */
  step: number | null;
  /** Only on this world rank; null: any. */
  rank: number | null;
  action: FailpointAction;
  /** Of `slow`, else 0. */
  milliseconds: number;
  /** The text it was read from: names its marker file. */
  text: string;
}

/** Step and rank that this process works on; failpoints compare with it. */
export interface FailpointScope {
  step: number;
  rank: number;
}

/** Reads `name[@step][/rank]:action[=milliseconds]`, comma-separated; ARGUMENT_INVALID names the part that is wrong. */
export function parseFailpoints(spec: string): Failpoint[] {
  const texts = spec
    .split(",")
    .map((text) => text.trim())
    .filter((text) => text !== "");
  return texts.map((text) => {
    const match = /^([a-z.]+)(?:@(\d+))?(?:\/(\d+))?:([a-z]+)(?:=(\d+))?$/.exec(text);
    const name = FAILPOINT_NAMES.find((known) => known === match?.[1]);
    const action = FAILPOINT_ACTIONS.find((known) => known === match?.[4]);
    if (!match || !name || !action || (action === "slow") !== (match[5] !== undefined)) {
      throw new GokuError(
        "ARGUMENT_INVALID",
        `Cannot read failpoint "${text}": want name[@step][/rank]:action, or slow=MILLISECONDS as the action, name one of ${FAILPOINT_NAMES.join(", ")}, action one of ${FAILPOINT_ACTIONS.join(", ")}`,
      );
    }
    if (SPOILING.has(action) && !NAN_NAMES.includes(name)) {
      throw new GokuError(
        "ARGUMENT_INVALID",
        `Cannot read failpoint "${text}": only ${NAN_NAMES.join(", ")} have numbers to spoil`,
      );
    }
    if (action === "flip" && !FLIP_NAMES.includes(name)) {
      throw new GokuError(
        "ARGUMENT_INVALID",
        `Cannot read failpoint "${text}": only ${FLIP_NAMES.join(", ")} have bits to flip`,
      );
    }
    const number = (digits: string | undefined) => (digits === undefined ? null : Number(digits));
    return {
      name,
      step: number(match[2]),
      rank: number(match[3]),
      action,
      milliseconds: number(match[5]) ?? 0,
      text,
    };
  });
}

/** The first failpoint of that name that the scope meets. */
export function matchFailpoint(
  points: readonly Failpoint[],
  name: FailpointName,
  scope: FailpointScope,
): Failpoint | null {
  const meets = (wanted: number | null, found: number) => wanted === null || wanted === found;
  const isStep = (p: Failpoint) =>
    p.action === "slow" ? scope.step >= (p.step ?? 0) : meets(p.step, scope.step);
  return points.find((p) => p.name === name && isStep(p) && meets(p.rank, scope.rank)) ?? null;
}

const pending: Failpoint[] = parseFailpoints(process.env.GOKU_FAILPOINTS ?? "");
/** Those that last and have fired in this process. */
const begun = new Set<Failpoint>();
let current: FailpointScope = { step: 0, rank: -1 };

/** Says which step and rank the thread of this process works on from here on. */
export function setFailpointScope(scope: Partial<FailpointScope>): void {
  current = { ...current, ...scope };
}

/**
 * Passes a named place. Returns null nearly always; a number asks the caller to multiply its loss by it, "flip" to turn a bit. May throw (actions throw,
 * enospc and eio) or not return (kill, segfault, stop, stall, hold). Code that serves several ranks passes its own scope.
 */
export function failpoint(name: FailpointName, scope: FailpointScope = current): number | "flip" | null {
  if (pending.length === 0) return null;
  return fire(name, scope);
}

/** Fires what is set for this place and not spent yet. Parts of the same place fire one after another, one a pass. */
function fire(name: FailpointName, scope: FailpointScope): number | "flip" | null {
  for (;;) {
    const point = matchFailpoint(pending, name, scope);
    if (point === null) return null;
    const lasts = LASTING.has(point.action);
    if (lasts && begun.has(point)) return act(point);
    if (lasts) begun.add(point);
    else pending.splice(pending.indexOf(point), 1);
    if (!claim(point) && !lasts) continue; // it has fired in another process: the next part of this place is due
    tellFired(point, scope);
    return act(point);
  }
}

function act(point: Failpoint): number | "flip" | null {
  switch (point.action) {
    case "kill":
    case "segfault":
      process.kill(process.pid, point.action === "kill" ? "SIGKILL" : "SIGSEGV");
      return blockForever(); // the signal may take a moment; nothing after this place may run
    case "stop":
      process.kill(process.pid, "SIGSTOP");
      return null;
    case "stall":
      return blockForever();
    case "hold":
      return blockUntilReleased(point);
    case "throw":
      throw new GokuError("INTERNAL", `Cannot go on: failpoint ${point.text} threw`);
    case "enospc":
      throw storageError(point, "ENOSPC", "no space left on device");
    case "eio":
      throw storageError(point, "EIO", "i/o error");
    case "nan":
    case "poison":
    case "surge":
    case "flood":
      return SPOILING.get(point.action)!;
    case "flip":
      return "flip";
    case "slow":
      return busy(point.milliseconds);
    case "mark":
      return null;
  }
}

function tellFired(point: Failpoint, scope: FailpointScope): void {
  process.stderr.write(`failpoint ${point.text} fires at step ${scope.step} on rank ${scope.rank}\n`);
}

/** Uses the processor, as slow work does; sleeping would leave it to the other ranks of the machine. */
function busy(milliseconds: number): null {
  const endMs = performance.now() + milliseconds;
  while (performance.now() < endMs);
  return null;
}

/** As node:fs throws it. */
function storageError({ text }: Failpoint, code: string, meaning: string): Error {
  return Object.assign(new Error(`${code}: ${meaning} (failpoint ${text})`), { code });
}

/** Null: no folder for markers is named. */
function markerOf({ text }: Failpoint): string | null {
  const folder = process.env.GOKU_FAILPOINT_DIR;
  return folder ? path.join(folder, text.replaceAll("/", "-rank-").replaceAll(":", "-")) : null;
}

/** True for the one process that creates the marker first; true always where no folder is named. */
function claim(point: Failpoint): boolean {
  const marker = markerOf(point);
  if (marker === null) return true;
  mkdirSync(path.dirname(marker), { recursive: true });
  try {
    closeSync(openSync(marker, "wx"));
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

/** How often a place that holds looks whether it may go on. */
const RELEASE_POLL_MS = 2;

/** Whoever holds a process here does something to its world, and then makes the file MARKER.released. */
function blockUntilReleased(point: Failpoint): null {
  const marker = markerOf(point);
  if (marker === null) return blockForever();
  const word = new Int32Array(new SharedArrayBuffer(4));
  while (!existsSync(`${marker}.released`)) Atomics.wait(word, 0, 0, RELEASE_POLL_MS);
  return null;
}

function blockForever(): never {
  for (;;) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}
