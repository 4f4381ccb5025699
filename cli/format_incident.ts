import { type Incident, IncidentOutcome } from "../gen/goku/v1/controller.pb.js";
import { fields } from "./output.js";

const STATES: Partial<Record<IncidentOutcome, string>> = {
  [IncidentOutcome.OPEN]: "open: not recovered yet",
  [IncidentOutcome.RECOVERED]: "recovered",
  [IncidentOutcome.FAILED]: "not recovered: the job ended",
};

/** Lines of each part that are shown: together with the fields, no more than a screen. */
const SHOWN = { evidence: 10, lastLines: 6, stacks: 12 };

/** One incident on one screen: what happened, who saw it, what was decided and why, what it cost. The rest is in the JSON form. */
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
  const stacks = incident.stacks.flatMap(({ rank, nodeId, lines: stack }) => [
    `rank ${rank} on ${nodeId} when it was ended`,
    ...stack.map((line) => `  ${line}`),
  ]);
  const indented = (text: readonly string[]) => text.map((line) => `  ${line}`);
  if (incident.evidence.length > 0)
    lines.push("seen by", ...part(indented(incident.evidence), SHOWN.evidence, "head"));
  if (incident.lastLines.length > 0)
    lines.push("last lines", ...part(indented(incident.lastLines), SHOWN.lastLines, "tail"));
  lines.push(...part(stacks, SHOWN.stacks, "head"));
  return lines.join("\n");
}

/** The first or the last lines, and how many there are beside them. */
function part(lines: readonly string[], max: number, end: "head" | "tail"): string[] {
  if (lines.length <= max) return [...lines];
  const more = `  ... ${lines.length - max} lines more: gokuctl why --json`;
  return end === "head" ? [...lines.slice(0, max), more] : [more, ...lines.slice(-max)];
}
