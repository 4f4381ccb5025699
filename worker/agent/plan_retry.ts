import type { ErrorCode } from "../../job/errors.js";
import { backoffMs } from "./backoff.js";

/** Faults of the job or of the snapshot, not of the storage: the same save fails for ever. */
const HOPELESS: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "SNAPSHOT_MISSING",
  "CHECKPOINT_CORRUPT",
  "CHECKPOINT_MISMATCH",
  "CONFLICT",
  "GENERATION_STALE",
  "ARGUMENT_INVALID",
]);
/** Tries of a save after which the next one due is a better use of the storage. */
const TRIES_MAX = 5;
const BACKOFF = { firstMs: 1_000, longestMs: 30_000 };

export type RetryPlan = { kind: "again"; waitMs: number } | { kind: "giveUp"; reason: string };

/**
 * What follows a failed try of a durable save. Its slot stays pinned meanwhile, which training can spare until the next
 * save is due: that one needs a slot, too, and its state is the better one. The save that ends a run has no next one.
 * Pure.
 */
export function planRetry(failure: {
  code: ErrorCode;
  /** Tries that have failed so far, at least 1. */
  tries: number;
  final: boolean;
  /** A newer save of the same rank waits. */
  superseded: boolean;
  /** In [0, 1). */
  chance: number;
}): RetryPlan {
  const { code, tries, final, superseded, chance } = failure;
  if (HOPELESS.has(code)) return { kind: "giveUp", reason: "trying again would not help" };
  if (superseded) return { kind: "giveUp", reason: "a newer save is due" };
  if (!final && tries >= TRIES_MAX) return { kind: "giveUp", reason: `${tries} tries failed` };
  return { kind: "again", waitMs: backoffMs(tries - 1, chance, BACKOFF) };
}
