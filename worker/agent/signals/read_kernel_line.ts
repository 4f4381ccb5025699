import { KERNEL_LINES } from "../../../job/signals/kernel_lines.js";
import { xidKind } from "../../../job/signals/xids.js";
import { type ReadSign, TEXT_LENGTH_MAX } from "./log_reader.js";

/** Longer ones are cut before anything looks at them; the kernel's own limit is about this. */
const LINE_LENGTH_MAX = 1_024;
/**
 * As /dev/kmsg tells it: priority and facility, number, microseconds since boot, flags; then the line.
 * `4,1234,5678901234,-;NVRM: Xid ...`
 */
const RECORD = /^(\d{1,10}),\d{1,20},\d{1,20},[^;]{0,100};(.*)$/;
/** `NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has fallen off the bus.`; older drivers leave out `PCI:`. */
const XID = /^NVRM: Xid \((?:PCI:)?([0-9A-Fa-f:.]{4,20})\): (\d{1,5})(?:,|$)/;
const XID_PID = /\bpid='?(\d{1,10})\b/;

export interface KernelSign extends ReadSign {
  /** Process that the line names; null: none. */
  pid: number | null;
}

/**
 * What a line of /dev/kmsg says of the machine's health; null: nothing. Only what the kernel itself wrote counts: others may write
 * there, too. Lines that begin with a space tell more of the record before them.
 */
export function readKernelLine(record: string): KernelSign | null {
  const [, priority, line] = RECORD.exec(record.slice(0, LINE_LENGTH_MAX)) ?? [];
  if (line === undefined || Number(priority) >> 3 !== 0) return null;
  const text = line.slice(0, TEXT_LENGTH_MAX);
  const [, device, xid] = XID.exec(line) ?? [];
  if (xid !== undefined) {
    const [, pid] = XID_PID.exec(line) ?? [];
    return { kind: xidKind(Number(xid)), device: device!, text, pid: pid === undefined ? null : Number(pid) };
  }
  for (const { name, pattern } of KERNEL_LINES) {
    const found = pattern.exec(line);
    if (found === null) continue;
    const { device: named = "", pid } = found.groups ?? {};
    return { kind: `kernel.${name}`, device: named, text, pid: pid === undefined ? null : Number(pid) };
  }
  return null;
}
