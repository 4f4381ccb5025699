import { ERRORS, type ErrorCode } from "../../job/errors.js";

/**
 * What a failure reported by a rank or an agent calls for:
 * `fatal`  the job cannot succeed anywhere; trying again would repeat it;
 * `source` the state it was to restore cannot be read there: take the next source;
 * `member` anything else: form again, within the attempts allowed.
 */
export type FailureClass = "fatal" | "source" | "member";

const FATAL: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "JOB_INVALID",
  "LAYOUT_INVALID",
  "ARGUMENT_INVALID",
  "DATA_EMPTY",
  "DATA_CHANGED",
  "DATA_UNREADABLE",
  "CHECKPOINT_MISMATCH",
  "NATIVE_MISSING",
  "NATIVE_ARGUMENT",
  "NATIVE_OUT_OF_MEMORY",
  "NOT_FINITE",
  "NUMBERS_SPIKED",
]);
const SOURCE: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "CHECKPOINT_CORRUPT",
  "SNAPSHOT_MISSING",
  "NOT_FOUND",
]);

export function failureClass(code: ErrorCode): FailureClass {
  if (FATAL.has(code)) return "fatal";
  return SOURCE.has(code) ? "source" : "member";
}

/** A code from the wire; names outside the catalogue count as INTERNAL. */
export function knownCode(code: string): ErrorCode {
  return Object.hasOwn(ERRORS, code) ? (code as ErrorCode) : "INTERNAL";
}
