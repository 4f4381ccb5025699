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
  const read = fieldsOf(`/proc/${pid}/stat`);
  if (read === null) return null;
  const [state, parent, , session] = read.fields;
  return {
    pid,
    name: read.name,
    state: state!,
    parent: Number(parent),
    session: Number(session),
    startTicks: read.fields[19]!,
  };
}

/** The main thread of a process: its state, and the clock ticks that it has run for. Null: there is none of that pid. */
export function mainThreadOf(pid: number): { state: string; ranTicks: number } | null {
  const read = fieldsOf(`/proc/${pid}/task/${pid}/stat`);
  return read && { state: read.fields[0]!, ranTicks: Number(read.fields[11]) + Number(read.fields[12]) };
}

function fieldsOf(file: string): { name: string; fields: string[] } | null {
  let stat: string;
  try {
    stat = readFileSync(file, "latin1");
  } catch {
    return null;
  }
  // The name in parentheses may hold anything; fields are counted after it, from field 3.
  const name = stat.slice(stat.indexOf("(") + 1, stat.lastIndexOf(")"));
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return fields.length < 20 ? null : { name, fields };
}

/** Null also of a zombie, which only waits to be reaped. */
export function readStat(pid: number): ProcessStat | null {
  const stat = statOf(pid);
  return stat?.state === "Z" || stat?.state === "X" ? null : stat;
}
