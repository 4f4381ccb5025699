import type { KubeNode, Pod, Taint } from "./kube_api.js";
import { nodeIdOf } from "./pod_fate.js";
import type { Quarantine } from "./training_port.js";

export const TAINT = "goku.dev/quarantined";
/** What the taint stands for; kept on the node, so that a new leader, or a new store, knows it. */
export const QUARANTINE_ANNOTATION = "goku.dev/quarantine";
/** Of the machines that run agents, so many are tainted at most (one always may be): a fault of ours must not empty a cluster. */
const TAINTED_SHARE_MAX = 0.25;

interface TaintRecord {
  nodeId: string;
  podUid: string;
  reason: string;
  /** RFC 3339; null: until a person removes the taint. */
  until: string | null;
}

export type NodeAction =
  | {
      kind: "patchNode";
      node: { name: string; resourceVersion: string };
      change: { taints: Taint[]; annotations: Record<string, string | null> };
      reason: string;
    }
  | { kind: "evict"; pod: { name: string; uid: string }; reason: string }
  | { kind: "release"; nodeId: string; reason: string };

export interface NodesInput {
  quarantines: readonly Quarantine[];
  pods: readonly Pod[];
  machines: readonly KubeNode[];
  nowMs: number;
}

/**
 * A quarantine is about a machine, and its name is that of a pod, which outlives the machine: so the machine is tainted
 * until the quarantine ends, the pod is evicted, and the pod that replaces it elsewhere is released. Without a taint the
 * pod is not evicted: it would come back to the same machine. Pure.
 */
export function reconcileNodes(input: NodesInput): NodeAction[] {
  const actions = input.machines.flatMap((machine) => lift(input, machine));
  let taintsLeft = taintsAllowed(input);
  for (const quarantine of input.quarantines) {
    const action = enforce(input, quarantine, taintsLeft);
    if (action === null) continue;
    if (action.kind === "patchNode") taintsLeft -= 1;
    actions.push(action);
  }
  return actions;
}

function enforce(input: NodesInput, quarantine: Quarantine, taintsLeft: number): NodeAction | null {
  const { nodeId, reason, atMs, untilMs } = quarantine;
  const pod = input.pods.find((one) => nodeIdOf(one) === nodeId);
  const machine = input.machines.find(({ metadata }) => metadata.name === pod?.spec.nodeName);
  if (pod === undefined || machine === undefined) return null;
  const { uid, name, deletionTimestamp, creationTimestamp } = pod.metadata;
  const at = machine.metadata.name;
  const isTainted = recordOf(machine) !== null && hasTaint(machine);
  const isNew = Date.parse(creationTimestamp) > atMs;
  if (isNew && !isTainted) {
    // Where the one before it ran is known from the taint alone: without one, this may be the same machine.
    if (!input.machines.some((one) => recordOf(one)?.nodeId === nodeId)) return null;
    const text = `the quarantine (${reason}) was about the pod before this one; it runs on ${at} now`;
    return { kind: "release", nodeId, reason: text };
  }
  if (untilMs !== null && input.nowMs >= untilMs) return null; // it is examined again, where it is
  if (isTainted) {
    const text = `${at} is quarantined: ${reason}`;
    return deletionTimestamp === undefined ? { kind: "evict", pod: { name, uid }, reason: text } : null;
  }
  if (taintsLeft <= 0 || recordOf(machine) !== null) return null;
  const until = untilMs === null ? null : new Date(untilMs).toISOString();
  const record: TaintRecord = { nodeId, podUid: uid, reason, until };
  const value = until === null ? "until-released" : `until-${until.replaceAll(/[:.]/g, "-")}`;
  return {
    kind: "patchNode",
    node: versionOf(machine),
    change: {
      taints: [...othersOf(machine), { key: TAINT, value, effect: "NoSchedule" }],
      annotations: { [QUARANTINE_ANNOTATION]: JSON.stringify(record) },
    },
    reason,
  };
}

/** Ends the taint of a machine: its time is over, or a person has said so, by kubectl or gokuctl. */
function lift(input: NodesInput, machine: KubeNode): NodeAction[] {
  const record = recordOf(machine);
  if (record === null) return [];
  const reason = liftReason(input, machine, record);
  if (reason === null) return [];
  const isPresent = input.pods.some(({ metadata }) => metadata.uid === record.podUid);
  const isQuarantined = input.quarantines.some(({ nodeId }) => nodeId === record.nodeId);
  // The record goes last: it alone keeps the machine from being tainted again for the same quarantine.
  if (!hasTaint(machine) && isPresent && isQuarantined)
    return [{ kind: "release", nodeId: record.nodeId, reason }];
  const annotations = { [QUARANTINE_ANNOTATION]: null };
  const change = { taints: othersOf(machine), annotations };
  return [{ kind: "patchNode", node: versionOf(machine), change, reason }];
}

function liftReason(input: NodesInput, machine: KubeNode, record: TaintRecord): string | null {
  if (!hasTaint(machine)) return "its taint was removed";
  if (record.until !== null && !(input.nowMs < Date.parse(record.until)))
    return "its quarantine is over, a pod that comes is examined";
  const isPresent = input.pods.some(({ metadata }) => metadata.uid === record.podUid);
  const isQuarantined = input.quarantines.some(({ nodeId }) => nodeId === record.nodeId);
  // Once the pod is gone its quarantine says nothing about the machine any more.
  return isPresent && !isQuarantined ? `${record.nodeId} was released` : null;
}

function taintsAllowed({ pods, machines }: NodesInput): number {
  const tainted = machines.filter((machine) => recordOf(machine) !== null);
  const used = new Set([
    ...pods.map(({ spec }) => spec.nodeName),
    ...tainted.map((one) => one.metadata.name),
  ]);
  used.delete(undefined);
  return Math.max(1, Math.floor(TAINTED_SHARE_MAX * used.size)) - tainted.length;
}

function recordOf({ metadata }: KubeNode): TaintRecord | null {
  const text = metadata.annotations?.[QUARANTINE_ANNOTATION];
  if (text === undefined) return null;
  try {
    const { nodeId, podUid, reason, until } = JSON.parse(text) as Partial<TaintRecord>;
    return { nodeId: nodeId ?? "", podUid: podUid ?? "", reason: reason ?? "", until: until ?? null };
  } catch {
    // Somebody wrote it by hand: the taint stays until somebody removes it.
    return { nodeId: "", podUid: "", reason: text, until: null };
  }
}

function hasTaint({ spec }: KubeNode): boolean {
  return (spec.taints ?? []).some(({ key }) => key === TAINT);
}

function othersOf({ spec }: KubeNode): Taint[] {
  return (spec.taints ?? []).filter(({ key }) => key !== TAINT);
}

function versionOf({ metadata }: KubeNode) {
  return { name: metadata.name, resourceVersion: metadata.resourceVersion };
}
