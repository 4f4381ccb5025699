import type { CheckedDevice } from "../gen/goku/v1/agent.pb.js";
import type { Diagnosis, JudgedCheck, NodeDiagnosis } from "../gen/goku/v1/controller.pb.js";
import { table } from "./output.js";

const SKIPPED = "skipped";
/** Names of checks of a device begin with it. */
const DEVICE = /^device_/;

/** What is examined, a node or a device of one, with the results that are about it. */
interface Subject {
  nodeId: string;
  /** The node's verdict, or the device's number and name. */
  about: string;
  /** Null: the node itself. */
  device: CheckedDevice | null;
  checks: JudgedCheck[];
}

/**
 * A table of nodes and checks with the fleet's medians, one of their devices if there are any, then a line for each thing
 * that is wrong. Where one of them is wider than the terminal, each check has a line of its own.
 */
export function diagnosisText(diagnosis: Diagnosis, columns: number): string {
  const subjects = diagnosis.nodes.flatMap(subjectsOf);
  const devices = subjects.filter(({ device }) => device !== null);
  const nodes = wideTable(
    "VERDICT",
    subjects.filter(({ device }) => device === null),
  );
  const wide = devices.length === 0 ? nodes : `${nodes}\n\n${wideTable("DEVICE", devices)}`;
  const fits = wide.split("\n").every((line) => line.length <= columns);
  return [fits ? wide : longTable(subjects), ...notes(diagnosis)].join("\n");
}

/** A node, then its devices. */
function subjectsOf({ nodeId, verdict, checks }: NodeDiagnosis): Subject[] {
  const node: Subject = { nodeId, about: verdict, device: null, checks: [] };
  const devices = new Map<number, Subject>();
  for (const check of verdict === SKIPPED ? [] : checks) {
    const device = check.result?.device;
    if (device === undefined) {
      node.checks.push(check);
      continue;
    }
    const { index, name } = device;
    const subject = devices.get(index) ?? { nodeId, about: `${index}: ${name}`, device, checks: [] };
    subject.checks.push(check);
    devices.set(index, subject);
  }
  return [node, ...devices.values()];
}

function wideTable(about: string, subjects: readonly Subject[]): string {
  const all = subjects.flatMap(({ checks }) => checks);
  const names = [...new Set(all.map(({ result }) => result?.name ?? ""))];
  const heads = names.map((name) => {
    const unit = all.find(({ result }) => result?.name === name && result.unit !== "")?.result?.unit ?? "";
    return `${name.replace(DEVICE, "").toUpperCase().replace("_", "\n")}\n${unit}`;
  });
  const rows = subjects.map(({ nodeId, about: what, checks }) => [
    nodeId,
    what,
    ...names.map((name) => cellText(checks.find(({ result }) => result?.name === name))),
  ]);
  return table(["NODE", about, ...heads], [...rows, ...medianRows(names, subjects)]);
}

/** What nodes, or devices of one name, are compared with; none where nothing is. */
function medianRows(names: readonly string[], subjects: readonly Subject[]): string[][] {
  const kinds = [...new Set(subjects.map(({ device }) => device?.name ?? ""))];
  return kinds.flatMap((kind) => {
    const checks = subjects
      .filter(({ device }) => (device?.name ?? "") === kind)
      .flatMap((subject) => subject.checks);
    const medians = names.map((name) => checks.find(({ result }) => result?.name === name)?.median);
    if (medians.every((median) => median === undefined)) return [];
    return [["median", kind, ...medians.map((median) => (median === undefined ? "-" : rounded(median)))]];
  });
}

function longTable(subjects: readonly Subject[]): string {
  const rows = subjects.flatMap(({ nodeId, about, device, checks }) => [
    device === null ? [nodeId, about, "", "", ""] : ["", `device ${about}`, "", "", ""],
    ...checks.map((check) => [
      "",
      check.result?.name ?? "",
      valueText(check),
      check.median === undefined ? "-" : rounded(check.median),
      check.verdict,
    ]),
  ]);
  return table(["NODE", "CHECK", "VALUE", "MEDIAN", "VERDICT"], rows);
}

function cellText(check: JudgedCheck | undefined): string {
  if (check?.result === undefined) return "-";
  const value = rounded(check.result.value);
  if (check.verdict === "ok") return value;
  return check.verdict === "failed" ? "FAILED" : `${value} SLOW`;
}

function valueText({ result, verdict }: JudgedCheck): string {
  return verdict === "failed" ? "-" : `${rounded(result?.value ?? 0)} ${result?.unit ?? ""}`;
}

function rounded(value: number): string {
  return String(Math.abs(value) >= 100 ? Math.round(value) : Number(value.toPrecision(3)));
}

/** What is wrong, and what became of it. */
function notes({ nodes, badLinks }: Diagnosis): string[] {
  const bad = nodes
    .filter(({ reason }) => reason !== "")
    .map(
      ({ nodeId, verdict, reason }) =>
        `${nodeId} ${verdict === "suspect" ? "is suspect" : verdict}: ${reason}`,
    );
  const links = badLinks.map((members) => `collectives fail between ${members}, which succeed with others`);
  const failed = nodes.filter(({ verdict }) => verdict === "failed").map(({ nodeId }) => nodeId);
  if (failed.length === 0) return [...bad, ...links];
  const until = failed.length === 1 ? "gets no ranks until it passes" : "get no ranks until they pass";
  return [...bad, ...links, `${failed.join(", ")} ${until}: see gokuctl nodes`];
}
