import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { z } from "zod";

/** A line that a controller or an agent logged. */
export interface LogLine {
  /** Its file: "controller", "controller-2", "node-a". */
  member: string;
  timeMs: number;
  text: string;
  /** Why an agent has no controller; empty in other lines. */
  reason: string;
}

const LINE = z.object({
  time: z.union([z.number(), z.iso.datetime()]),
  msg: z.string(),
  reason: z.string().default(""),
});

/** What the members of a cluster have logged, oldest first; what ranks print is left out. */
export function readMemberLogs(folder: string): LogLine[] {
  const files = readdirSync(folder).filter((name) => name.endsWith(".log") && !name.endsWith(".ranks.log"));
  const lines = files.flatMap((file) => {
    const member = path.basename(file, ".log");
    return readFileSync(path.join(folder, file), "utf8")
      .split("\n")
      .flatMap((text) => readLine(member, text));
  });
  return lines.sort((a, b) => a.timeMs - b.timeMs);
}

/** None where a process wrote something else, such as the half of a line at its end. */
function readLine(member: string, text: string): LogLine[] {
  try {
    const { time, msg, reason } = LINE.parse(JSON.parse(text));
    return [{ member, timeMs: new Date(time).getTime(), text: msg, reason }];
  } catch {
    return [];
  }
}
