import { type Dirent, lstatSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { statOf } from "../worker/program/process_stat.js";

/** Memory of one node of a cluster on this machine. */
export interface NodeMemoryUse {
  /** Of the files in its shared memory, whoever maps them. */
  sharedBytes: number;
  /** Of its agent and all processes below it, without those files: proportional where others share it. */
  processBytes: number;
}

/** @param folder of the node, in tmpfs */
export function nodeMemoryUse({ agent, folder }: { agent: number; folder: string }): NodeMemoryUse {
  const processBytes = family(agent).reduce((sum, pid) => sum + residentBytes(pid, folder), 0);
  return { sharedBytes: fileBytes(folder), processBytes };
}

/** Linux's USER_HZ, whatever the kernel's own clock does. */
const TICKS_PER_SECOND = 100;

/** CPU of a node's agent and all living processes below it, since each began. */
export function nodeCpuSeconds(agent: number): number {
  return family(agent).reduce((sum, pid) => sum + cpuTicks(pid), 0) / TICKS_PER_SECOND;
}

/** 0: the process has gone. */
function cpuTicks(pid: number): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    const [user, system] = stat
      .slice(stat.lastIndexOf(")") + 2)
      .split(" ")
      .slice(11, 13);
    return Number(user) + Number(system);
  } catch {
    return 0;
  }
}

function fileBytes(folder: string): number {
  const files = new Map<number, number>(); // by inode: a file may have two names
  for (const file of filesBelow(folder)) {
    const found = lstatSync(file, { throwIfNoEntry: false });
    if (found) files.set(found.ino, 512 * found.blocks);
  }
  return [...files.values()].reduce((sum, bytes) => sum + bytes, 0);
}

function filesBelow(folder: string): string[] {
  let entries: Dirent[];
  try {
    entries = readdirSync(folder, { withFileTypes: true });
  } catch {
    return []; // not there yet, or not any more
  }
  return entries.flatMap((entry) => {
    const place = path.join(folder, entry.name);
    return entry.isDirectory() ? filesBelow(place) : entry.isFile() ? [place] : [];
  });
}

function family(root: number): number[] {
  const children = new Map<number, number[]>();
  for (const name of readdirSync("/proc")) {
    const stat = /^\d+$/.test(name) ? statOf(Number(name)) : null;
    if (stat) children.set(stat.parent, [...(children.get(stat.parent) ?? []), stat.pid]);
  }
  const members = [root];
  for (const member of members) members.push(...(children.get(member) ?? []));
  return members;
}

/** Pss of all mappings but those of files below `folder`; 0: the process has gone. */
function residentBytes(pid: number, folder: string): number {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/smaps`, "latin1");
  } catch {
    return 0;
  }
  let kibibytes = 0;
  let counts = true;
  for (const line of text.split("\n")) {
    const mapping = /^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+\s*(.*)$/.exec(line);
    // One without a name is no more among the files.
    if (mapping) counts = !mapping[1]!.startsWith(`${folder}/`) || mapping[1]!.endsWith(" (deleted)");
    else if (counts && line.startsWith("Pss:")) kibibytes += Number(/\d+/.exec(line)![0]);
  }
  return 1024 * kibibytes;
}
