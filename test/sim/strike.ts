import type { SimFault } from "./fault_plan.js";
import type { SimCluster } from "./sim_cluster.js";
import { strikeSigns } from "./strike_signs.js";
import { jobOf, strikeState } from "./strike_state.js";

/** Something goes wrong now, or somebody asks for something. */
export function strike(sim: SimCluster, fault: SimFault): void {
  switch (fault.kind) {
    case "killRank":
    case "killTwoRanks":
    case "stopRank":
    case "hangRank":
    case "breakRankNetwork":
      strikeRank(sim, fault);
      return;
    case "slowNode":
    case "computeWrong":
    case "badData":
    case "flipLive":
    case "flipCopies":
    case "fillDisk":
    case "loseCheckpoint":
    case "corruptCheckpoint":
      strikeState(sim, fault);
      return;
    case "crashAgent":
    case "crashNode":
    case "crashDomain":
    case "leaveNode":
    case "breakNode":
    case "cutLink":
    case "cutNodes":
    case "blockade":
    case "blockadeAll":
      strikeNode(sim, fault);
      return;
    case "crashController":
    case "crashLeader":
    case "pauseLeader":
    case "deposeLeader":
      strikeController(sim, fault);
      return;
    case "kernelSays":
    case "countsErrors":
    case "linkFalls":
    case "writesWords":
    case "killedForMemory":
    case "podEnds":
      strikeSigns(sim, fault);
      return;
    case "uponRollBack":
      sim.onRollBack.push(() => sim.scheduler.after(fault.afterMs, () => strike(sim, fault.fault)));
      return;
    default:
      strikeRest(sim, fault);
  }
}

type FaultOf<K extends SimFault["kind"]> = Extract<SimFault, { kind: K }>;

function strikeRank(
  sim: SimCluster,
  fault: FaultOf<"killRank" | "killTwoRanks" | "stopRank" | "hangRank" | "breakRankNetwork">,
): void {
  const living = sim.livingRanks();
  const victim = living[fault.index % Math.max(1, living.length)];
  if (victim === undefined) return;
  const { agent, rank } = victim;
  switch (fault.kind) {
    case "killTwoRanks": {
      const second = living[(fault.index + 1) % living.length]!;
      if (second.rank !== rank) second.agent.rankDies(second.rank, "SIGKILL");
      agent.rankDies(rank, "SIGKILL");
      return;
    }
    case "killRank":
      agent.rankDies(rank, "SIGKILL");
      return;
    case "breakRankNetwork":
      if (rank.group === null) return;
      rank.group.disturbed = true;
      rank.group.breakOff(rank.rank);
      return;
    case "hangRank":
    case "stopRank": {
      rank.stopped = true;
      rank.unkillable = fault.kind === "hangRank";
      if (rank.group !== null) rank.group.disturbed = true;
      const forMs = fault.kind === "stopRank" ? fault.forMs : null;
      if (forMs !== null) sim.scheduler.after(forMs, () => rank.goOn());
    }
  }
}

function strikeNode(
  sim: SimCluster,
  fault: FaultOf<
    | "crashAgent"
    | "crashNode"
    | "crashDomain"
    | "leaveNode"
    | "breakNode"
    | "cutLink"
    | "cutNodes"
    | "blockade"
    | "blockadeAll"
  >,
): void {
  if (fault.kind === "blockadeAll") {
    for (const node of sim.nodes) sim.blockade(node.nodeId, fault.way, fault.forMs);
    return;
  }
  const node = sim.nodes[fault.index % sim.nodes.length]!;
  switch (fault.kind) {
    case "crashAgent":
      sim.crashAgent(node, fault.forMs);
      return;
    case "crashNode":
      sim.crashNode(node, fault.forMs);
      return;
    case "crashDomain":
      sim.crashDomain(node, fault.forMs);
      return;
    case "leaveNode":
      sim.leaveNode(node, fault.graceMs, fault.forMs);
      return;
    case "breakNode":
      node.breaks();
      sim.scheduler.after(fault.forMs, () => {
        node.broken = false;
      });
      return;
    case "cutLink":
      node.agent?.cutLink();
      return;
    case "cutNodes": {
      const other = sim.nodes[fault.other % sim.nodes.length]!;
      if (other !== node) sim.cutNodes(node, other, fault.forMs);
      return;
    }
    case "blockade":
      sim.blockade(node.nodeId, fault.way, fault.forMs);
  }
}

function strikeController(
  sim: SimCluster,
  fault: FaultOf<"crashController" | "crashLeader" | "pauseLeader" | "deposeLeader">,
): void {
  const victim =
    fault.kind === "crashController" ? sim.controllers[fault.index % sim.controllers.length]! : sim.leader();
  if (victim === null) return;
  if (fault.kind === "pauseLeader") {
    victim.pause(fault.forMs);
    return;
  }
  if (fault.kind === "deposeLeader") {
    victim.stopClock(fault.forMs);
    cutStore(sim, victim.id, fault.forMs);
    return;
  }
  victim.crash();
  sim.scheduler.after(fault.forMs, () => victim.restart());
}

function strikeRest(
  sim: SimCluster,
  fault: FaultOf<
    | "storeFaults"
    | "cutStore"
    | "storeOutage"
    | "slowNetwork"
    | "drainNode"
    | "releaseNode"
    | "requestSave"
    | "requestStop"
  >,
): void {
  switch (fault.kind) {
    case "storeFaults":
      sim.store.faultRate = fault.rate;
      sim.scheduler.after(fault.forMs, () => {
        sim.store.faultRate = 0;
      });
      return;
    case "cutStore": {
      cutStore(sim, sim.controllers[fault.index % sim.controllers.length]!.id, fault.forMs);
      return;
    }
    case "slowNetwork":
      sim.mood.delayMsMax = fault.delayMsMax;
      sim.scheduler.after(fault.forMs, () => {
        sim.mood.delayMsMax = 10;
      });
      return;
    case "storeOutage":
      for (const { id } of sim.controllers) cutStore(sim, id, fault.forMs);
      return;
    case "drainNode":
    case "releaseNode": {
      const { nodeId } = sim.nodes[fault.index % sim.nodes.length]!;
      if (fault.kind === "releaseNode") sim.liftQuarantine(nodeId);
      else {
        sim.drain(nodeId);
        sim.scheduler.after(fault.forMs, () => sim.liftQuarantine(nodeId));
      }
      return;
    }
    case "requestSave":
      sim.requestSave(jobOf(sim, fault.index).jobId);
      return;
    case "requestStop":
      sim.requestStop(jobOf(sim, fault.index).jobId, fault.graceMs);
  }
}

function cutStore(sim: SimCluster, id: string, forMs: number): void {
  sim.store.cutOff.add(id);
  sim.scheduler.after(forMs, () => sim.store.cutOff.delete(id));
}
