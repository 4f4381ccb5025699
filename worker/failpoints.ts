import { closeSync, mkdirSync, openSync } from "node:fs";
import path from "node:path";
import { GokuError } from "../job/errors.js";

/**
 * Named places at which a fault can be made to happen, so that tests and drills hit exactly the phase they mean
 * (docs/failpoints.md). Set by the environment, for example
 * `GOKU_FAILPOINTS="collective.entered@12/1:kill,snapshot.write@9/2:stop"`, that is `name[@step][/rank]:action`.
 * Each one fires once over all restarts when GOKU_FAILPOINT_DIR names a folder for its marker files, else once a process.
 * Unset, a failpoint is one comparison.
 */
export const FAILPOINT_NAMES = [
  "connect.before", // rank: all peers known, no group connected yet
  "restore.before", // rank: before the state is read or initialised
  "data.before", // rank: before the packs of a step are asked for
  "forward.block", // rank: before the forward pass of a block
  "backward.block", // rank: before the backward pass of a block
  "collective.entered", // rank: a collective was started and is not waited for yet
  "vote.before", // rank: gradients are reduced, the vote is not cast
  "optimizer.before", // rank: voted, no weight changed
  "optimizer.after", // rank: the new state is written, and not sealed
  "snapshot.write", // rank: half of the new state is written into its slot
  "save.write", // agent: before a chunk of a durable save is written
  "save.commit", // agent: everything is written but the commit record
  "save.committed", // agent: the commit record is durable, nobody was told
] as const;
export type FailpointName = (typeof FAILPOINT_NAMES)[number];

/** kill: SIGKILL to itself. stop: SIGSTOP to itself. stall: blocks the thread for ever. nan: makes the loss NaN (where there is one). */
export const FAILPOINT_ACTIONS = ["kill", "stop", "throw", "enospc", "nan", "stall"] as const;
export type FailpointAction = (typeof FAILPOINT_ACTIONS)[number];

/** Places where a loss is at hand to be spoilt. */
const NAN_NAMES: readonly FailpointName[] = ["forward.block", "backward.block", "vote.before"];

export interface Failpoint {
  name: FailpointName;
  /** Only in this step; null: any. */
  step: number | null;
  /** Only on this world rank; null: any. */
  rank: number | null;
  action: FailpointAction;
  /** The text it was read from: names its marker file. */
  text: string;
}

/** Step and rank that this process works on; failpoints compare with it. */
export interface FailpointScope {
  step: number;
  rank: number;
}

/** Reads `name[@step][/rank]:action`, comma-separated; ARGUMENT_INVALID names the part that is wrong. */
export function parseFailpoints(spec: string): Failpoint[] {
  const texts = spec
    .split(",")
    .map((text) => text.trim())
    .filter((text) => text !== "");
  return texts.map((text) => {
    const match = /^([a-z.]+)(?:@(\d+))?(?:\/(\d+))?:([a-z]+)$/.exec(text);
    const name = FAILPOINT_NAMES.find((known) => known === match?.[1]);
    const action = FAILPOINT_ACTIONS.find((known) => known === match?.[4]);
    if (!match || !name || !action) {
      throw new GokuError(
        "ARGUMENT_INVALID",
        `Cannot read failpoint "${text}": want name[@step][/rank]:action, name one of ${FAILPOINT_NAMES.join(", ")}, action one of ${FAILPOINT_ACTIONS.join(", ")}`,
      );
    }
    if (action === "nan" && !NAN_NAMES.includes(name)) {
      throw new GokuError(
        "ARGUMENT_INVALID",
        `Cannot read failpoint "${text}": only ${NAN_NAMES.join(", ")} have numbers to spoil`,
      );
    }
    const number = (digits: string | undefined) => (digits === undefined ? null : Number(digits));
    return { name, step: number(match[2]), rank: number(match[3]), action, text };
  });
}

/** The first failpoint of that name that the scope meets. */
export function matchFailpoint(
  points: readonly Failpoint[],
  name: FailpointName,
  scope: FailpointScope,
): Failpoint | null {
  const meets = (wanted: number | null, found: number) => wanted === null || wanted === found;
  return (
    points.find((p) => p.name === name && meets(p.step, scope.step) && meets(p.rank, scope.rank)) ?? null
  );
}

const pending: Failpoint[] = parseFailpoints(process.env.GOKU_FAILPOINTS ?? "");
let current: FailpointScope = { step: 0, rank: -1 };

/** Says which step and rank the thread of this process works on from here on. */
export function setFailpointScope(scope: Partial<FailpointScope>): void {
  current = { ...current, ...scope };
}

/**
 * Passes a named place. Returns null nearly always; "nan" asks the caller to spoil its loss. May throw (actions throw
 * and enospc) or not return (kill, stop, stall). Code that serves several ranks passes its own scope.
 */
export function failpoint(name: FailpointName, scope: FailpointScope = current): "nan" | null {
  if (pending.length === 0) return null;
  return fire(name, scope);
}

/** Fires what is set for this place and not spent yet. */
function fire(name: FailpointName, scope: FailpointScope): "nan" | null {
  const point = matchFailpoint(pending, name, scope);
  if (point === null) return null;
  pending.splice(pending.indexOf(point), 1);
  if (!claim(point)) return null;
  process.stderr.write(`failpoint ${point.text} fires at step ${scope.step} on rank ${scope.rank}\n`);
  switch (point.action) {
    case "kill":
      process.kill(process.pid, "SIGKILL");
      return blockForever(); // the signal may take a moment; nothing after this place may run
    case "stop":
      process.kill(process.pid, "SIGSTOP");
      return null;
    case "stall":
      return blockForever();
    case "throw":
      throw new GokuError("INTERNAL", `Cannot go on: failpoint ${point.text} threw`);
    case "enospc":
      throw Object.assign(new Error(`ENOSPC: no space left on device (failpoint ${point.text})`), {
        code: "ENOSPC",
      });
    case "nan":
      return "nan";
  }
}

/** True for the one process that creates the marker first; true always where no folder is named. */
function claim(point: Failpoint): boolean {
  const folder = process.env.GOKU_FAILPOINT_DIR;
  if (!folder) return true;
  mkdirSync(folder, { recursive: true });
  try {
    closeSync(openSync(path.join(folder, point.text.replaceAll("/", "-rank-").replaceAll(":", "-")), "wx"));
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

function blockForever(): never {
  for (;;) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}
