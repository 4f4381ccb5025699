import type { Fault } from "./judge_fault.js";

/** Two members of which one had no answer from the other's machine. Which of the two is at fault nobody can tell from one pair. */
export interface CutPair {
  /** Who reports it. */
  fromRank: number;
  fromNode: string;
  toRank: number;
  toNode: string;
}

/**
 * Pairs of nodes whose ranks could not connect, one of each. Pure.
 * @param isHeard a node that is silent may be lost, which is told apart from a cut by that alone
 */
export function cutPairs(
  faults: readonly Fault[],
  nodeOfRank: (rank: number) => string | null,
  isHeard: (nodeId: string) => boolean = () => true,
): CutPair[] {
  const found = new Map<string, CutPair>();
  for (const fault of faults) {
    if (!isUnreached(fault)) continue;
    const { rank: fromRank, nodeId: fromNode, peer: toRank } = fault;
    const toNode = nodeOfRank(toRank!);
    if (fromRank === null || fromNode === null || toNode === null || fromNode === toNode) continue;
    if (!isHeard(fromNode) || !isHeard(toNode)) continue;
    const key = [fromNode, toNode].sort().join(" ");
    if (!found.has(key)) found.set(key, { fromRank, fromNode, toRank: toRank!, toNode });
  }
  return [...found.values()];
}

/** A rank that forms had no answer from a peer's machine. */
export function isUnreached({ source, code, operation, peer }: Fault): boolean {
  return source === "failed" && code === "COMM_TIMEOUT" && operation === "connect" && peer !== null;
}

type Ends = Pick<CutPair, "fromNode" | "toNode">;

/** The node that most pairs have in common, and how many; null: no two pairs have one in common. */
export function commonNode(pairs: readonly Ends[]): { nodeId: string; count: number } | null {
  let common: { nodeId: string; count: number } | null = null;
  for (const [nodeId, count] of degrees(pairs)) {
    if (count > (common?.count ?? 1)) common = { nodeId, count };
  }
  return common;
}

/**
 * As few nodes as make the others able to connect, each with why: those that most others miss, first. Of a pair that
 * stands alone the one that reports it, whose ranks are the higher ones: one is as good as the other. Pure.
 */
export function cutOff(pairs: readonly Ends[]): Map<string, string> {
  const avoid = new Map<string, string>();
  for (let left = [...pairs]; left.length > 0; ) {
    const nodeId = commonNode(left)?.nodeId ?? left[0]!.fromNode;
    const others = left.flatMap((pair) => otherOf(pair, nodeId)).sort();
    avoid.set(nodeId, `it and ${others.join(", ")} cannot connect to each other`);
    left = left.filter((pair) => otherOf(pair, nodeId).length === 0);
  }
  return avoid;
}

function degrees(pairs: readonly Ends[]): Map<string, number> {
  const count = new Map<string, number>();
  for (const { fromNode, toNode } of pairs)
    for (const nodeId of [fromNode, toNode]) count.set(nodeId, (count.get(nodeId) ?? 0) + 1);
  return new Map([...count].sort(([a], [b]) => (a < b ? -1 : 1)));
}

function otherOf({ fromNode, toNode }: Ends, nodeId: string): string[] {
  if (fromNode === nodeId) return [toNode];
  return toNode === nodeId ? [fromNode] : [];
}
