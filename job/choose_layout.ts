import { type AnyJob, isCommandJob } from "./command_job.js";
import { GokuError } from "./errors.js";
import { modelConfig } from "./job.js";
import { Layout, type LayoutSize } from "./layout.js";

export interface LayoutChoice {
  layout: LayoutSize;
  /** One line for logs, REST and `gokuctl plan`. */
  reason: string;
}

/** Above this many ranks, shard groups are kept inside equal blocks of it and replicated (HSDP). */
const SHARD_GROUP_MAX = 64;

/**
 * The layout of a job on the ranks at hand. Pure.
 *
 * A layout written in the job is taken as it is and must multiply to the ranks. For `auto`, ranks share the packs of a step first
 * (dp_shard, which also divides the memory); sequence parallelism is used only for ranks that would have no pack of their own,
 * and its groups never leave a node. Replicas appear above 64 ranks, where sharding further costs more traffic than memory it saves.
 * A program of its own divides the ranks as it likes: it is given all of them, as dp_shard.
 * @param options.slots ranks of each node, in rank order
 * @throws GokuError LAYOUT_INVALID
 */
export function chooseLayout(options: { slots: readonly number[]; job: AnyJob }): LayoutChoice {
  const { slots, job } = options;
  const ranks = slots.reduce((sum, count) => sum + count, 0);
  if (ranks < 1)
    throw new GokuError("LAYOUT_INVALID", "Cannot lay out 0 ranks: no node offers a slot, start an agent");
  if (job.layout !== "auto") {
    const layout = new Layout(job.layout, ranks);
    return { layout: layout.size, reason: `layout ${layout} is set in the job` };
  }
  if (isCommandJob(job)) {
    const reason = `auto chose ${ranks} ${ranks === 1 ? "rank" : "ranks"}: one for each free slot`;
    return { layout: { dp_replicate: 1, dp_shard: ranks, sp: 1 }, reason };
  }
  const packs = job.train.packs_per_step;
  const sp = chooseSequence({ slots, ranks, packs, heads: modelConfig(job).heads });
  const dataRanks = ranks / sp;
  const replicas = chooseReplicas(dataRanks * sp, sp);
  const layout = new Layout({ dp_replicate: replicas, dp_shard: dataRanks / replicas, sp }, ranks);
  return { layout: layout.size, reason: explain(layout, packs) };
}

/** The smallest sequence group that leaves no data rank without a pack, among those that divide every node. */
function chooseSequence(options: {
  slots: readonly number[];
  ranks: number;
  packs: number;
  heads: number;
}): number {
  const perNode = options.slots.filter((count) => count > 0).reduce(greatestCommonDivisor);
  const possible = divisors(perNode).filter((sp) => sp <= options.heads);
  return possible.find((sp) => options.ranks / sp <= options.packs) ?? possible.at(-1)!;
}

function chooseReplicas(ranks: number, sp: number): number {
  if (ranks <= SHARD_GROUP_MAX) return 1;
  const groups = divisors(ranks).filter((size) => size <= SHARD_GROUP_MAX && size % sp === 0);
  // an odd number of ranks may have no group worth sharding over; then all of them are one group
  const size = groups.at(-1) ?? ranks;
  return size * 4 >= SHARD_GROUP_MAX ? ranks / size : 1;
}

function explain(layout: Layout, packs: number): string {
  const parts = [`${layout.worldSize} ${layout.worldSize === 1 ? "rank" : "ranks"}`];
  if (layout.sp > 1)
    parts.push(`sp ${layout.sp} inside a node since a step has ${packs} packs for ${layout.worldSize} ranks`);
  else parts.push(`each takes packs of its own (${packs} a step)`);
  if (layout.dpReplicate > 1)
    parts.push(`${layout.dpReplicate} replicas of ${layout.shardGroupSize}-rank shard groups`);
  else if (layout.shardGroupSize > 1) parts.push(`parameters sharded over all ${layout.shardGroupSize}`);
  const idle = layout.idleRanks(packs);
  if (idle > 0) parts.push(`${idle} without a pack: raise train.packs_per_step`);
  return `auto chose ${layout}: ${parts.join(", ")}`;
}

function divisors(value: number): number[] {
  return Array.from({ length: value }, (_, i) => i + 1).filter((part) => value % part === 0);
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
