/**
 * Called at named places of a durable save, so that faults can be put exactly there. "save.write": before every chunk
 * of at most 1 MiB that a writer hands to storage (`bytes` written so far); "save.commit": when everything is checked and only
 * the commit record is missing; "save.committed": the record is durable, nobody has been told yet. What the hook throws is
 * treated as if storage had thrown it: an error with code "ENOSPC" is a full disk.
 */
export type SaveHook = (
  point: SavePoint,
  detail: { writer: number; step: number; bytes: number },
) => void | Promise<void>;
export type SavePoint = "save.write" | "save.commit" | "save.committed";
