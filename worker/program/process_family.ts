import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { type ProcessStat, readStat } from "./process_stat.js";

/** Name of the variable by which a family's processes are known: each inherits it, unless it clears its environment. */
export const FAMILY_VARIABLE = "GOKU_PROCESS";

/** A program and whatever it has started. */
export interface Family {
  /** Value of FAMILY_VARIABLE; one that ends with "/" stands for all that begin with it. */
  mark: string;
  /** Session that the program leads; null: not known. */
  session: number | null;
  /** Process that is spared, though it carries the mark: whoever started the program. */
  except: number;
}

/** Between two looks whether they have gone. */
const LOOK_MS = 10;

/**
 * Kills (SIGKILL) the living processes of a family and returns how many there were. One that was started in the middle of
 * it may be missed, so that this is repeated until there are none.
 *
 * Members are known by the mark in their environment, by the program's session and by their parents: one of these holds
 * for data loaders, for shells' children, for what `nohup` or a launcher has put into a session of its own, and for
 * programs that write over their environment to change their title.
 */
export function killFamily(family: Family): number {
  const members = familyMembers(family);
  for (const { pid } of members) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // It went on its own between the look and the signal.
    }
  }
  return members.length;
}

/** Kills a family and waits until the kernel has freed it; false: some would not go in time. */
export async function endFamily(family: Family, timeoutMs: number): Promise<boolean> {
  const end = performance.now() + timeoutMs;
  while (killFamily(family) > 0) {
    if (performance.now() > end) return false;
    await sleep(LOOK_MS);
  }
  return true;
}

/** The living processes of a family. */
export function familyMembers({ mark, session, except }: Family): ProcessStat[] {
  const all = processes();
  const members = new Set<number>();
  for (const { pid, session: own } of all) {
    if ((session !== null && own === session) || carries(pid, mark)) members.add(pid);
  }
  // Children of members are members, also of the one that is spared.
  const parents = new Set([...members, ...(members.has(except) ? [except] : [])]);
  for (let before = -1; before !== parents.size; ) {
    before = parents.size;
    for (const { pid, parent } of all) if (parents.has(parent)) parents.add(pid);
  }
  return all.filter(({ pid }) => parents.has(pid) && pid !== except && pid !== process.pid);
}

function processes(): ProcessStat[] {
  return readdirSync("/proc").flatMap((name) => {
    const stat = /^\d+$/.test(name) ? readStat(Number(name)) : null;
    return stat === null ? [] : [stat];
  });
}

function carries(pid: number, mark: string): boolean {
  let environment: string;
  try {
    environment = readFileSync(`/proc/${pid}/environ`, "latin1");
  } catch {
    return false; // another user's, or it has gone
  }
  const begin = `${FAMILY_VARIABLE}=${mark}`;
  return environment
    .split("\0")
    .some((variable) => (mark.endsWith("/") ? variable.startsWith(begin) : variable === begin));
}
