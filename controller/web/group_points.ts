import type { Point } from "./merge_curves.js";

const ADDED = [
  "steps",
  "tokens",
  "step_seconds",
  "compute_seconds",
  "comm_wait_seconds",
  "data_wait_seconds",
  "snapshot_seconds",
] as const;

/**
 * At most `groupsMax` points with the sums of those that follow each other: times of single steps jump about, and what matters
 * is what they come to. Each has the last step of its group. Pure.
 */
export function groupPoints(points: readonly Point[], groupsMax: number): Point[] {
  const size = Math.ceil(points.length / groupsMax);
  if (size <= 1) return [...points];
  const groups: Point[] = [];
  for (let at = 0; at < points.length; at += size) {
    const of = points.slice(at, at + size);
    const group = { ...of.at(-1)! };
    for (const name of ADDED) group[name] = of.reduce((sum, point) => sum + (point[name] ?? 0), 0);
    groups.push(group);
  }
  return groups;
}
