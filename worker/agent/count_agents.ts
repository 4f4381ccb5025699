import { readdirSync } from "node:fs";
import path from "node:path";
import { AGENT_LOCK } from "./lock_node.js";
import { isAlive, readRecord } from "./process_records.js";

/**
 * Living agents whose folders stand beside each other in one state folder: those share the memory that it is in, and the rest
 * of the machine or container with it. At least 1, the one that asks.
 */
export function countAgents(stateDir: string): number {
  const living = readdirSync(stateDir, { withFileTypes: true }).filter((entry) => {
    const holder = entry.isDirectory() ? readRecord(path.join(stateDir, entry.name, AGENT_LOCK)) : null;
    return holder !== null && isAlive(holder);
  });
  return Math.max(1, living.length);
}
