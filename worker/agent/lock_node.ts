import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import path from "node:path";
import { GokuError } from "../../job/errors.js";
import { isAlive, readRecord, startTicks } from "./process_records.js";

/** In the folder of a node: a record of the process that owns it. */
export const AGENT_LOCK = "agent.json";

/**
 * Makes this process the only one that owns a node's folder, and returns the lock, to be removed in the end. The lock is a
 * record of the process, so that a killed one leaves none. `doing` completes "Cannot ...". Throws CONFLICT.
 */
export function lockNode(folder: string, doing: string): string {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const lock = path.join(folder, AGENT_LOCK);
  const mine = JSON.stringify({ pid: process.pid, startTicks: startTicks(process.pid) });
  const holder = readRecord(lock);
  if (holder && holder.pid !== process.pid && isAlive(holder)) {
    throw new GokuError(
      "CONFLICT",
      `Cannot ${doing}: process ${holder.pid} owns ${folder}, stop it or use another --node`,
    );
  }
  writeFileSync(`${lock}.${process.pid}`, mine);
  renameSync(`${lock}.${process.pid}`, lock);
  if (readFileSync(lock, "utf8") !== mine) {
    throw new GokuError("CONFLICT", `Cannot ${doing}: another process took ${folder} at the same time`);
  }
  return lock;
}
