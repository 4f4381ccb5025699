import type { Diagnosis, JudgedCheck, NodeDiagnosis } from "../gen/goku/v1/controller.pb.js";
import { table } from "./output.js";

const SKIPPED = "skipped";

/**
 * A table of nodes and checks with the fleet's medians, then a line for each thing that is wrong. Where that is wider than
 * the terminal, each check of a node has a line of its own.
 */
export function diagnosisText(diagnosis: Diagnosis, columns: number): string {
  const examined = diagnosis.nodes.filter(({ verdict }) => verdict !== SKIPPED);
  const names = [
    ...new Set(examined.flatMap(({ checks }) => checks.map((check) => check.result?.name ?? ""))),
  ];
  const wide = wideTable(diagnosis.nodes, names);
  const fits = wide.split("\n").every((line) => line.length <= columns);
  return [fits ? wide : longTable(diagnosis.nodes), ...notes(diagnosis)].join("\n");
}

function wideTable(nodes: readonly NodeDiagnosis[], names: readonly string[]): string {
  const all = nodes.flatMap(({ checks }) => checks);
  const heads = names.map((name) => {
    const unit = all.find(({ result }) => result?.name === name && result.unit !== "")?.result?.unit ?? "";
    return `${name.toUpperCase().replace("_", "\n")}\n${unit}`;
  });
  const rows = nodes.map((node) => [
    node.nodeId,
    node.verdict,
    ...names.map((name) => cellText(node.checks.find(({ result }) => result?.name === name))),
  ]);
  const medians = names.map((name) => all.find(({ result }) => result?.name === name)?.median);
  if (medians.some((median) => median !== undefined))
    rows.push(["median", "", ...medians.map((median) => (median === undefined ? "-" : rounded(median)))]);
  return table(["NODE", "VERDICT", ...heads], rows);
}

function longTable(nodes: readonly NodeDiagnosis[]): string {
  const rows = nodes.flatMap(({ nodeId, verdict, checks }) => [
    [nodeId, verdict, "", "", ""],
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
