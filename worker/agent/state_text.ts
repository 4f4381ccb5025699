import { readFileSync } from "node:fs";
import type { ProcessStat } from "../program/process_stat.js";

const STATES: Readonly<Record<string, string>> = {
  R: "running",
  S: "sleeping",
  D: "in the kernel, cannot be interrupted (a disk or a network file system that does not answer)",
  T: "stopped by a signal",
  t: "stopped by a debugger",
};

/** What the kernel says that a process does, for people: "sleeping in futex_wait_queue". */
export function stateText({ pid, state }: ProcessStat): string {
  const place = placeOf(pid);
  const inside = (state === "S" || state === "D") && /^[a-z]\w+$/.test(place) ? ` in ${place}` : "";
  return `${STATES[state] ?? `in state ${state}`}${inside}`;
}

function placeOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/wchan`, "latin1");
  } catch {
    return "";
  }
}
