import { goneFate, type PodFate, podFate } from "../../controller/kubernetes/pod_fate.js";
import type { PodEnd, SignHardship } from "./sign_hardships.js";
import type { SimCluster } from "./sim_cluster.js";
import type { SimNode } from "./sim_node.js";

/** How long an evicted agent is given. */
const EVICTION_MS = 20_000;
/** Between a kernel's line and the end of a rank that it explains. */
const ENDS_MS = 1_500;

/** A machine, or a program on it, tells of trouble. */
export function strikeSigns(sim: SimCluster, fault: SignHardship): void {
  const node = sim.nodes[fault.index % sim.nodes.length]!;
  switch (fault.kind) {
    case "kernelSays":
      node.agent?.watch.takeKernel(fault.line);
      if (fault.kills) sim.scheduler.after(ENDS_MS, () => killOne(node, fault.index));
      if (fault.bootsAfterMs !== null)
        sim.scheduler.after(fault.bootsAfterMs, () => {
          if (node.up) sim.crashNode(node, 10_000);
        });
      return;
    case "countsErrors":
      for (const each of fault.all ? sim.nodes : [node]) {
        each.counters.grow(fault.counter, fault.perMinute, sim.nowMs);
        each.agent?.watch.lookAtCounters();
        sim.scheduler.after(fault.forMs, () => each.counters.grow(fault.counter, 0, sim.nowMs));
      }
      return;
    case "linkFalls":
      node.counters.links.set(fault.link, true);
      node.agent?.watch.lookAtCounters();
      node.counters.links.set(fault.link, false);
      sim.scheduler.after(fault.forMs, () => node.counters.links.set(fault.link, true));
      return;
    case "writesWords":
      writeWords(sim, fault);
      return;
    case "killedForMemory":
      killForMemory(sim, fault);
      return;
    case "podEnds":
      endPod(sim, node, fault);
  }
}

function killOne({ agent }: SimNode, index: number): void {
  const ranks = [...(agent?.ranks.values() ?? [])];
  const victim = ranks[index % Math.max(1, ranks.length)];
  if (victim !== undefined) agent!.rankDies(victim, "SIGABRT");
}

function victimOf(sim: SimCluster, index: number) {
  const living = sim.livingRanks();
  return living[index % Math.max(1, living.length)];
}

function writeWords(sim: SimCluster, fault: SignHardship & { kind: "writesWords" }): void {
  const victim = victimOf(sim, fault.index);
  if (victim === undefined) return;
  const { agent, rank } = victim;
  agent.watch.take(rank.rank, fault.line);
  if (fault.outcome === "goesOn") return;
  if (fault.outcome === "ends") {
    sim.scheduler.after(ENDS_MS, () => agent.rankDies(rank, "SIGABRT"));
    return;
  }
  rank.stopped = true;
  if (rank.group !== null) rank.group.disturbed = true;
  if (fault.forMs !== null) sim.scheduler.after(fault.forMs, () => rank.goOn());
}

function killForMemory(sim: SimCluster, fault: SignHardship & { kind: "killedForMemory" }): void {
  const victim = victimOf(sim, fault.index);
  if (victim === undefined) return;
  const { agent, rank } = victim;
  const pid = fault.named ? rank.pid : 4_000_000;
  agent.watch.takeKernel(`Memory cgroup out of memory: Killed process ${pid} (node) total-vm:1kB`);
  sim.scheduler.after(fault.afterMs, () => agent.rankDies(rank, "SIGKILL"));
}

function endPod(sim: SimCluster, node: SimNode, fault: SignHardship & { kind: "podEnds" }): void {
  const { how, toldMs, forMs } = fault;
  if (node.agent?.alive !== true) return;
  const pod = podOf(sim, node, how);
  if (how === "deleted") sim.crashNode(node, forMs);
  else if (how === "evicted") sim.leaveNode(node, EVICTION_MS, forMs);
  else {
    node.hasKilledForMemory = true;
    sim.crashAgent(node, forMs);
  }
  const told: PodFate = how === "deleted" ? goneFate(pod) : podFate(pod)!;
  sim.scheduler.after(toldMs, () => {
    // Its platform has seen what is there by now.
    const down = how === "evicted" ? told.fate.down : node.agent?.alive !== true;
    sim.leader()?.tellFate(node.nodeId, { ...told.fate, down });
  });
}

/** As the platform shows it. */
function podOf(sim: SimCluster, node: SimNode, how: PodEnd) {
  const terminated = { exitCode: 137, reason: "OOMKilled" };
  const isKilled = how === "killedForMemory";
  const state = isKilled ? { terminated } : { running: {} };
  const target = { type: "DisruptionTarget", status: "True", reason: "EvictionByEvictionAPI" };
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      name: node.nodeId,
      uid: `${node.nodeId}-${sim.nowMs}`,
      resourceVersion: "1",
      creationTimestamp: "",
      ...(isKilled ? {} : { deletionTimestamp: new Date(sim.nowMs + EVICTION_MS).toISOString() }),
    },
    spec: { containers: [{ name: "agent", resources: { limits: { memory: "8Gi" } } }] },
    status: {
      phase: "Running",
      conditions: how === "evicted" ? [target] : [],
      containerStatuses: [{ name: "agent", restartCount: 0, state }],
    },
  };
}
