import { type ErrorCode, READ_MEMORY } from "../../job/errors.js";
import type { FaultSource } from "../../job/fault_sources.js";
import { commonNode, cutPairs, isUnreached } from "./cut_pairs.js";

/** One observation of one fault, by whoever made it. */
export interface Fault {
  atMs: number;
  source: FaultSource;
  code: ErrorCode;
  /** World rank that the observation is about; null: the node. */
  rank: number | null;
  nodeId: string | null;
  /** Rank named as the cause by a collective's error. */
  peer: number | null;
  operation: string;
  /** One line for people: who saw what. */
  text: string;
  lastLines: readonly string[];
  /** The controller had ordered this very end. */
  ordered: boolean;
  /** How many other ranks of its node said the very same; they are not in the list. */
  echoes: number;
  /** `kill`: this rank hangs and must be ended first; `ask`: abort and see which ranks stay silent. */
  remedy: "none" | "kill" | "ask";
}

export interface Culprit {
  code: ErrorCode;
  what: string;
  rank: number | null;
  nodeId: string | null;
  operation: string;
  lastLines: string[];
}

/** Lower is nearer to the cause: what is seen directly comes before what survivors infer. */
function distance(fault: Fault): number {
  if (fault.ordered) return 9;
  switch (fault.source) {
    case "stall":
      return fault.rank === null && fault.nodeId === null ? 6 : 0;
    case "signal":
      return 0;
    case "fate":
    case "restart":
    case "leaving":
      return 1;
    case "exit":
      return 2;
    case "refused":
      return 3;
    case "failed":
      return failedDistance(fault.code);
    case "lost":
      return 4;
    case "deadline":
      return 7;
  }
}

function failedDistance(code: ErrorCode): number {
  if (code === "COMM_ABORTED" || code === "GENERATION_STALE") return 10;
  if (code === "COMM_PEER_DIED") return 5;
  if (code === "COMM_TIMEOUT") return 8;
  return 3;
}

/**
 * Whether all that was reported follows from a cause that somebody saw and has not told yet: survivors of an abort, and
 * peers that miss a rank whose agent is there (`isHeard`, by node) to say how it ended. On busy nodes echoes come first.
 */
export function awaitsCause(
  faults: readonly Fault[],
  nodeOfRank: (rank: number) => string | null,
  isHeard: (nodeId: string) => boolean,
): boolean {
  return faults.every(({ source, code, peer }) => {
    if (source !== "failed") return false;
    if (code === "COMM_ABORTED") return true;
    const nodeId = peer === null ? null : nodeOfRank(peer);
    return code === "COMM_PEER_DIED" && nodeId !== null && isHeard(nodeId);
  });
}

/** Nodes that cannot be reached, each with why for people. */
export function lostFaults(
  atMs: number,
  nodeIds: readonly string[],
  text: (nodeId: string) => string,
): Fault[] {
  return nodeIds.map((nodeId) =>
    faultOf({ atMs, source: "lost", code: "NODE_LOST", nodeId, text: text(nodeId) }),
  );
}

/** A fault with the usual values for whatever is not given. */
export function faultOf(fault: Pick<Fault, "atMs" | "source" | "code" | "text"> & Partial<Fault>): Fault {
  return {
    rank: null,
    nodeId: null,
    peer: null,
    operation: "",
    lastLines: [],
    ordered: false,
    echoes: 0,
    remedy: "none",
    ...fault,
  };
}

/**
 * Resolves what several observers report at about the same time into one cause: a rank's death also reaches us as
 * COMM_PEER_DIED from its peers and as COMM_ABORTED from everyone whom that freed.
 * @param faults at least one
 * @param nodeOfRank node of a rank in the generation that failed
 */
export function judgeFaults(faults: readonly Fault[], nodeOfRank: (rank: number) => string | null): Culprit {
  let nearest = faults[0]!;
  let least = Number.POSITIVE_INFINITY;
  for (const fault of faults) {
    const found = distance(fault);
    if (found >= least) continue;
    nearest = fault;
    least = found;
  }
  if (nearest.source === "failed" && nearest.code === "COMM_PEER_DIED") return judgePeers(faults, nodeOfRank);
  if (isUnreached(nearest)) return judgeCut(faults, nodeOfRank, nearest);
  return {
    code: nearest.code,
    what: nearest.text,
    rank: nearest.rank,
    nodeId: nearest.nodeId,
    operation: nearest.operation,
    lastLines: [...nearest.lastLines],
  };
}

/** Ranks cannot connect: a node that several miss is named, of a single pair neither. */
function judgeCut(
  faults: readonly Fault[],
  nodeOfRank: (rank: number) => string | null,
  nearest: Fault,
): Culprit {
  const pairs = cutPairs(faults, nodeOfRank);
  const common = commonNode(pairs);
  const [pair] = pairs;
  const single =
    pair === undefined
      ? nearest.text
      : `rank ${pair.fromRank} on ${pair.fromNode} and rank ${pair.toRank} on ${pair.toNode} cannot connect to each other`;
  const what =
    common === null ? single : `${common.nodeId} and ${common.count} others cannot connect to each other`;
  const nodeId = common?.nodeId ?? null;
  return { code: "COMM_TIMEOUT", what, rank: null, nodeId, operation: "connect", lastLines: [] };
}

/** Only peers speak: the rank that most of them name. */
function judgePeers(faults: readonly Fault[], nodeOfRank: (rank: number) => string | null): Culprit {
  const reports = faults.filter((f) => f.source === "failed" && f.code === "COMM_PEER_DIED");
  const votes = new Map<number, number>();
  for (const { peer, echoes } of reports)
    if (peer !== null) votes.set(peer, (votes.get(peer) ?? 0) + 1 + echoes);
  let named: number | null = null;
  for (const [rank, count] of votes) {
    const best: number = named === null ? 0 : votes.get(named)!;
    if (count > best || (count === best && named !== null && rank < named)) named = rank;
  }
  const first = reports[0]!;
  if (named === null) {
    // Memory that cannot be read is no fault of who reads it.
    const reporter = first.operation === READ_MEMORY ? { rank: null, nodeId: null } : first;
    return {
      code: first.code,
      what: first.text,
      rank: reporter.rank,
      nodeId: reporter.nodeId,
      operation: first.operation,
      lastLines: [...first.lastLines],
    };
  }
  const nodeId = nodeOfRank(named);
  const where = nodeId === null ? `rank ${named}` : `rank ${named} on ${nodeId}`;
  const count = votes.get(named)!;
  const by = count === 1 ? "1 peer" : `${count} peers`;
  const operation = first.operation === "" ? "" : ` in ${first.operation}`;
  return {
    code: "COMM_PEER_DIED",
    what: `${where} was lost by ${by}${operation}`,
    rank: named,
    nodeId,
    operation: first.operation,
    lastLines: [],
  };
}
