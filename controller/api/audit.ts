import type { AuditEntry } from "../../gen/goku/v1/controller.pb.js";
import type { ErrorCode } from "../../job/errors.js";
import type { Principal } from "../../security/principal.js";
import { PERMISSIONS, type Permission } from "./permissions.js";

/** Where entries go: the event log, the controller's own log, metrics. `job`: name of the job it was about, or "". */
export type AuditSink = (entry: AuditEntry, job: string) => void;

/** Names that come from outside are cut to this; those that can be are shorter. */
const TARGET_MAX = 128;

/** Who asks, and from where. */
export interface Caller {
  principal: Principal;
  address: string;
}

/** What was done, or refused, as an entry of the event log. Pure. */
export function auditEntry(
  { principal, address }: { principal: Principal | null; address: string },
  permission: Permission,
  { target, outcome }: { target: string; outcome: "DONE" | ErrorCode },
): AuditEntry {
  return {
    who: principal?.name ?? "",
    via: principal?.via ?? "",
    address,
    action: PERMISSIONS[permission].action,
    target: printable(target).slice(0, TARGET_MAX),
    outcome,
  };
}

/** One line for people: `ops (token, 10.0.0.7): stop a job, shapes: DONE`. Pure. */
export function auditText({ who, via, address, action, target, outcome }: AuditEntry): string {
  const caller = via === "" ? `somebody (${address})` : `${who} (${via}, ${address})`;
  return `${caller}: ${action}${target === "" ? "" : `, ${target}`}: ${outcome}`;
}

/** Nothing that a terminal would obey. */
function printable(text: string): string {
  return text.replace(/\p{C}/gu, "?");
}
