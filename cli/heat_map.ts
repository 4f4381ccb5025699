import type { JobStatus } from "../gen/goku/v1/controller.pb.js";

/** Up to so many ranks each is a number; beyond, a shade. */
const NUMBERS_COUNT_MAX = 16;
const LABEL_CHARACTERS_MAX = 20;
/** Shades by slowness, each below its bound; the last has none. */
const SHADES = [
  { shade: "░", below: 1.05 },
  { shade: "▒", below: 1.15 },
  { shade: "▓", below: 1.3 },
  { shade: "█", below: Number.POSITIVE_INFINITY },
] as const;
const UNKNOWN = "·";
const LEGEND = "░ below 1.05  ▒ 1.15  ▓ 1.3  █ above  · not known";

interface Cell {
  rank: number;
  /** 0: not known. */
  slowness: number;
}

/**
 * How slow every rank is, in lines of at most `columns` characters: a heading that names the slowest, then the nodes with
 * their ranks. Few ranks are numbers, `*` where the controller calls one slow; many are shades, nodes side by side, a row
 * named after its first; too many for `rows` lines are one shade for each node, its slowest rank; then only the rows with
 * the slowest. Empty while nothing is known.
 */
export function heatMap(job: JobStatus, size: { columns: number; rows: number }): string[] {
  const nodes = new Map<string, Cell[]>();
  for (const [rank, slowness] of job.rankSlowness.entries()) {
    const nodeId = job.rankNodes[rank] ?? "";
    const cells = nodes.get(nodeId);
    if (cells) cells.push({ rank, slowness });
    else nodes.set(nodeId, [{ rank, slowness }]);
  }
  const worst = [...nodes].flatMap(([nodeId, cells]) => cells.map((cell) => ({ ...cell, nodeId })));
  if (!worst.some(({ slowness }) => slowness > 0)) return [];
  const slowest = worst.reduce((a, b) => (b.slowness > a.slowness ? b : a));
  const found = `slowest ${slowest.slowness.toFixed(2)}: rank ${slowest.rank} on ${slowest.nodeId}`;
  const isFew = worst.length <= NUMBERS_COUNT_MAX;
  const rows = isFew ? numberRows(job, nodes) : shadeRows(nodes, size);
  const heading = isFew ? `slowness  ${found}` : `slowness  ${found}   ${LEGEND}`;
  return [heading, ...rows].map((line) => line.slice(0, size.columns));
}

function numberRows(job: JobStatus, nodes: ReadonlyMap<string, readonly Cell[]>): string[] {
  const width = Math.max(...[...nodes.keys()].map((nodeId) => nodeId.length));
  return [...nodes].map(([nodeId, cells]) => {
    const numbers = cells.map(({ rank, slowness }) => {
      const slow = job.stragglers.some(
        (s) => s.nodeId === nodeId && (s.rank === undefined || s.rank === rank),
      );
      return `${rank}: ${slowness === 0 ? UNKNOWN.padEnd(4) : slowness.toFixed(2)}${slow ? "*" : " "}`;
    });
    return `  ${nodeId.padEnd(width)}  ${numbers.join(" ")}`.trimEnd();
  });
}

function shadeRows(
  nodes: ReadonlyMap<string, readonly Cell[]>,
  { columns, rows }: { columns: number; rows: number },
): string[] {
  const byRank = [...nodes].map(([nodeId, cells]) => ({ nodeId, cells: cells.map((cell) => cell.slowness) }));
  const perRank = layRows(byRank, columns, " ");
  if (perRank.length <= rows) return perRank.map(({ text }) => text);
  const byNode = byRank.map(({ nodeId, cells }) => ({ nodeId, cells: [Math.max(...cells)] }));
  const perNode = layRows(byNode, columns, "");
  if (perNode.length <= rows) return perNode.map(({ text }) => text);
  const kept = [...perNode].sort((a, b) => b.slowest - a.slowest).slice(0, rows - 1);
  const least = Math.min(...kept.map(({ slowest }) => slowest));
  const left = perNode.length - kept.length;
  const shown = perNode.filter((row) => kept.includes(row)).map(({ text }) => text);
  return [...shown, `  and ${left} rows more, none above ${least.toFixed(2)}`];
}

function layRows(
  nodes: readonly { nodeId: string; cells: readonly number[] }[],
  columns: number,
  gap: string,
): { text: string; slowest: number }[] {
  const label = Math.min(LABEL_CHARACTERS_MAX, Math.max(...nodes.map(({ nodeId }) => nodeId.length)));
  const group = Math.max(...nodes.map(({ cells }) => cells.length)) + gap.length;
  const perRow = Math.max(1, Math.floor((columns - label - 4) / group));
  const laid: { text: string; slowest: number }[] = [];
  for (let at = 0; at < nodes.length; at += perRow) {
    const row = nodes.slice(at, at + perRow);
    const name = row[0]!.nodeId.slice(0, label).padEnd(label);
    const shades = row.map(({ cells }) => cells.map(shadeOf).join("").padEnd(group)).join("");
    const slowest = Math.max(...row.flatMap(({ cells }) => cells));
    laid.push({ text: `  ${name}  ${shades.trimEnd()}`, slowest });
  }
  return laid;
}

function shadeOf(slowness: number): string {
  if (slowness === 0) return UNKNOWN;
  return SHADES.find(({ below }) => slowness < below)!.shade;
}
