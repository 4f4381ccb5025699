import { readFileSync } from "node:fs";

/** What the kernel tells of a process. */
export interface ProcessStat {
  pid: number;
  /** Of its program; may hold anything. */
  name: string;
  /** One letter, as in ps: R, S, D, T, Z, ... */
  state: string;
  parent: number;
  session: number;
  /** Clock ticks after boot at which it started. */
  startTicks: string;
}

/** Null: there is none of that pid. */
export function statOf(pid: number): ProcessStat | null {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return null;
  }
  // The name in parentheses may hold anything; fields are counted after it, from field 3.
  const name = stat.slice(stat.indexOf("(") + 1, stat.lastIndexOf(")"));
  const [state, parent, , session, ...rest] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  if (rest.length < 16) return null;
  return {
    pid,
    name,
    state: state!,
    parent: Number(parent),
    session: Number(session),
    startTicks: rest[15]!,
  };
}

/** Null also of a zombie, which only waits to be reaped. */
export function readStat(pid: number): ProcessStat | null {
  const stat = statOf(pid);
  return stat?.state === "Z" || stat?.state === "X" ? null : stat;
}
