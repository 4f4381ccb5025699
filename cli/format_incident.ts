import { type Incident, IncidentOutcome } from "../gen/goku/v1/controller.pb.js";
import { fields } from "./output.js";

const STATES: Partial<Record<IncidentOutcome, string>> = {
  [IncidentOutcome.OPEN]: "open: not recovered yet",
  [IncidentOutcome.RECOVERED]: "recovered",
  [IncidentOutcome.FAILED]: "not recovered: the job ended",
};

/** One incident on one screen: what happened, who saw it, what was decided and why, what it cost. */
export function incidentText(incident: Incident): string {
  const where = [incident.rank === undefined ? null : `rank ${incident.rank}`, incident.nodeId || null]
    .filter(Boolean)
    .join(" on ");
  const milestones = incident.milestones
    .map((m) => `${m.name} ${(Number(m.afterMs) / 1000).toFixed(2)} s`)
    .join(", ");
  const lines = [
    fields([
      ["incident", `${incident.id} of job ${incident.job}, ${incident.detectedAt?.toISOString() ?? ""}`],
      ["what", incident.what],
      ["code", incident.code],
      ["where", where],
      ["decided", incident.decision],
      ["generation", `${incident.generationBefore} -> ${incident.generationAfter || "none formed"}`],
      ["timeline", milestones],
      ["steps lost", incident.stepsLost === undefined ? "not known" : String(incident.stepsLost)],
      ["state", STATES[incident.outcome]],
    ]),
  ];
  if (incident.evidence.length > 0) lines.push("seen by", ...incident.evidence.map((line) => `  ${line}`));
  if (incident.lastLines.length > 0)
    lines.push("last lines", ...incident.lastLines.map((line) => `  ${line}`));
  for (const { rank, nodeId, lines: stack } of incident.stacks)
    lines.push(`rank ${rank} on ${nodeId} when it was ended`, ...stack.map((line) => `  ${line}`));
  return lines.join("\n");
}
