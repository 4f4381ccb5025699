import { lstatSync, readdirSync, rmdirSync, rmSync } from "node:fs";
import path from "node:path";
import { GokuError } from "../job/errors.js";
import { lockNode } from "../worker/agent/lock_node.js";
import { isAlive, readRecord } from "../worker/agent/process_records.js";

/** Shared memory of one node: snapshots, pages, and a record of each process that may use them. */
export interface NodeFolder {
  path: string;
  bytes: number;
  /** A process on record that lives; null: the agent and all its ranks are gone. */
  owner: number | null;
}

/** Marks of a node's folder, which an agent makes when it starts. */
const MARKS = ["agent.json", "node.json", "processes"];

/** Nodes' folders in a state folder, also in those of local clusters one level below. */
export function nodeFolders(stateDir: string): NodeFolder[] {
  const found: NodeFolder[] = [];
  for (const folder of subfolders(stateDir)) {
    if (isNode(folder)) found.push(describe(folder));
    else found.push(...subfolders(folder).filter(isNode).map(describe));
  }
  return found;
}

/** Frees the memory of a node whose processes are gone, under its agent's lock; false: one lives after all. */
export function removeNodeFolder(folder: string): boolean {
  if (livingOwner(folder) !== null) return false;
  try {
    lockNode(folder, `remove ${folder}`);
  } catch (error) {
    if (error instanceof GokuError && error.code === "CONFLICT") return false;
    throw error;
  }
  rmSync(folder, { recursive: true, force: true });
  removeEmpty(path.dirname(folder));
  return true;
}

/** A local cluster's folder goes with its last node; the state folder itself may go as well. */
function removeEmpty(folder: string): void {
  try {
    rmdirSync(folder);
  } catch {
    // something is left in it
  }
}

function describe(folder: string): NodeFolder {
  return { path: folder, bytes: usedBytes(folder), owner: livingOwner(folder) };
}

function livingOwner(folder: string): number | null {
  const processes = entries(path.join(folder, "processes")).map((name) =>
    path.join(folder, "processes", name),
  );
  for (const file of [path.join(folder, "agent.json"), ...processes]) {
    const record = readRecord(file);
    if (record !== null && isAlive(record)) return record.pid;
  }
  return null;
}

function isNode(folder: string): boolean {
  const names = entries(folder);
  return MARKS.some((mark) => names.includes(mark));
}

function subfolders(folder: string): string[] {
  return entries(folder)
    .map((name) => path.join(folder, name))
    .filter((one) => lstatSync(one, { throwIfNoEntry: false })?.isDirectory());
}

function usedBytes(folder: string): number {
  return entries(folder).reduce((sum, name) => {
    const one = path.join(folder, name);
    const found = lstatSync(one, { throwIfNoEntry: false });
    if (found?.isDirectory()) return sum + usedBytes(one);
    return sum + 512 * (found?.blocks ?? 0);
  }, 0);
}

function entries(folder: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch {
    return []; // not there, not a folder, or another user's
  }
}
