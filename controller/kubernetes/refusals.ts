import type { ErrorCode } from "../../job/errors.js";

/** Refusals that pass by themselves: a name or folder in use, storage that does not answer. Others are final. */
export const RETRIABLE_REFUSALS: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "CONFLICT",
  "STORAGE_FAILED",
  "STORAGE_FULL",
  "INTERNAL",
]);
