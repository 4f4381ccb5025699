import { COUNTERS, LINKS } from "./counters.js";
import { KERNEL_LINES } from "./kernel_lines.js";
import { LOG_WORDS, PYTHON_ERROR } from "./log_words.js";
import type { SignalKind } from "./signal_kind.js";
import { OTHER_XID, XIDS } from "./xids.js";

/** Where a sign is read: the output of ranks, the kernel's log, counters of the machine. */
export const SIGNAL_SOURCES = ["log", "kernel", "counter"] as const;
export type SignalSource = (typeof SIGNAL_SOURCES)[number];

/** Every kind of sign by the name that agents tell it under; docs/hardware-signals.md is written from it. */
export const SIGNALS: ReadonlyMap<string, SignalKind & { source: SignalSource }> = new Map([
  ...[...LOG_WORDS, PYTHON_ERROR].map((each) => [`log.${each.name}`, plain(each, "log")] as const),
  ...[...XIDS].map(([xid, kind]) => [`xid.${xid}`, plain(kind, "kernel")] as const),
  ["xid.other", plain(OTHER_XID, "kernel")] as const,
  ...KERNEL_LINES.map((each) => [`kernel.${each.name}`, plain(each, "kernel")] as const),
  ...Object.entries({ ...COUNTERS, ...LINKS }).map(
    ([name, kind]) => [`counter.${name}`, plain(kind, "counter")] as const,
  ),
]);

function plain({ class: cls, cause, action, meaning }: SignalKind, source: SignalSource) {
  return { class: cls, cause, action, meaning, source };
}
