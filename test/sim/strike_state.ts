import type { SimFault } from "./fault_plan.js";
import type { SimCluster } from "./sim_cluster.js";
import type { SimJob } from "./sim_group.js";
import { CHUNK_COUNT, type Copy } from "./sim_memory.js";
import type { SimNode } from "./sim_node.js";

type StateFault = Extract<
  SimFault,
  {
    kind:
      | "slowNode"
      | "computeWrong"
      | "badData"
      | "flipLive"
      | "flipCopies"
      | "fillDisk"
      | "loseCheckpoint"
      | "corruptCheckpoint";
  }
>;

export function jobOf(sim: SimCluster, index: number): SimJob {
  const jobs = [...sim.jobs.values()];
  return jobs[index % jobs.length]!;
}

/** What machines compute, hold in memory and write goes wrong; their processes live. */
export function strikeState(sim: SimCluster, fault: StateFault): void {
  const node = sim.nodes[fault.index % sim.nodes.length]!;
  switch (fault.kind) {
    case "slowNode":
      node.setSlowness(fault.factor, sim.nowMs);
      sim.scheduler.after(fault.forMs, () => node.setSlowness(1, sim.nowMs));
      return;
    case "computeWrong":
      node.computesWrong(fault.how);
      sim.scheduler.after(fault.forMs, () => {
        node.wrong = null;
      });
      return;
    case "badData": {
      const job = jobOf(sim, fault.index);
      const step = job.stepHighest; // data do not turn bad once somebody has read them
      for (let i = 0; i < fault.count; i++) job.badSteps.set(step + 2 + i * fault.gap, fault.what);
      return;
    }
    case "flipLive":
      flipLive(sim, fault.index);
      return;
    case "flipCopies":
      flipCopies(sim, node, fault);
      return;
    case "fillDisk":
      for (const each of fault.all ? sim.nodes : [node]) {
        each.disk = fault.code;
        sim.scheduler.after(fault.forMs, () => {
          each.disk = null;
        });
      }
      return;
    case "loseCheckpoint":
    case "corruptCheckpoint": {
      const { storage } = jobOf(sim, fault.index);
      const newest = storage.durable.at(-1);
      if (newest === undefined) return;
      if (fault.kind === "loseCheckpoint") storage.lose(newest);
      else newest.corrupt = true;
    }
  }
}

/** In the state that a rank computes with. */
function flipLive(sim: SimCluster, index: number): void {
  const ranks = sim.livingRanks().filter(({ rank }) => rank.place?.book.live != null);
  const victim = ranks[index % Math.max(1, ranks.length)];
  if (victim === undefined) return;
  const { agent, rank } = victim;
  const { memory, book } = rank.place!;
  const copy = memory.slots(rank.set)[book.live!.index];
  if (copy == null) return; // nothing whole yet, so that no checksum tells
  copy.damaged.add(index % CHUNK_COUNT);
  if (rank.group !== null) rank.group.disturbed = true;
  sim.damaged(agent.node);
}

/** In snapshots and replicas that no rank computes with at present. */
function flipCopies(
  sim: SimCluster,
  node: SimNode,
  { index, count }: Extract<SimFault, { kind: "flipCopies" }>,
): void {
  const live = new Set<Copy | null>();
  for (const rank of node.agent?.ranks.values() ?? []) {
    const { place } = rank;
    if (place?.book.live != null) live.add(place.memory.slots(rank.set)[place.book.live.index] ?? null);
  }
  const copies = node.memory.copies().filter((copy) => !live.has(copy));
  for (let i = 0; i < Math.min(count, copies.length); i++)
    copies[(index + i) % copies.length]!.damaged.add((index + i) % CHUNK_COUNT);
  sim.damaged(node);
}
