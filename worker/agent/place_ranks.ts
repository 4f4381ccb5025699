import { availableParallelism } from "node:os";
import { type CommandJob, isCommandJob } from "../../job/command_job.js";
import type { Job } from "../../job/job.js";
import type { FoundDevices } from "../device/find_devices.js";
import { planDevices } from "../device/plan_devices.js";
import { visibleDevices } from "../device/visible_devices.js";
import type { GpuPlace, RankPlace } from "../rank_messages.js";
import type { Place } from "./place.js";
import { planProcesses, threadsPerRank } from "./plan_processes.js";
import type { ProcessPool } from "./process_pool.js";
import type { RankProcess } from "./rank_process.js";
import type { RankStates } from "./rank_states.js";

export interface PlacingOptions {
  node: string;
  host: string;
  /** CUDA devices of the node. */
  gpus: FoundDevices["devices"];
  pool: ProcessPool;
  states: RankStates;
  /** Of those that stay without a place. */
  sparesKept: number;
  /** Of this node; others that share the machine come and go. */
  memoryBytes: () => number;
}

/** Gives the ranks of a place to processes, those that are there first, and tells each of them its rank. */
export function placeRanks(place: Place, options: PlacingOptions): void {
  const { pool, sparesKept } = options;
  for (const process of pool.ranks) {
    process.abort(place.generation - 1n, { peer: null, code: "COMM_ABORTED" });
  }
  // A spare with the data open is the one to take.
  const living = pool.living.sort((a, b) => Number(b.knowsData) - Number(a.knowsData));
  const plan = planProcesses({ ranks: place.ranks, living, sparesKept });
  pool.dismiss(living.filter((process) => plan.surplus.includes(process.id)));
  const taken = plan.places.map(({ rank, id }): Taken => {
    const process = (id === null ? null : pool.find(id)!) ?? pool.start();
    process.beginPlace(rank, place.generation);
    return { rank, process };
  });
  const { job, device } = place;
  if (device === "cuda" && !isCommandJob(job)) giveGpus(taken, options);
  for (const one of taken) {
    if (isCommandJob(job)) placeProgram(place, job, one, options);
    else placeRank(place, job, one, options);
  }
}

/** Who takes which rank. */
interface Taken {
  rank: number;
  process: RankProcess;
}

function giveGpus(taken: readonly Taken[], { gpus }: PlacingOptions): void {
  const planned = planDevices(
    taken.map(({ process: { id, gpu } }) => ({ id, device: gpu })),
    gpus.length,
  );
  for (const { process } of taken) process.gpu = planned.get(process.id)!;
}

/** Null: ranks of this place compute on the CPU. */
function gpuPlace({ device }: Place, { gpu }: RankProcess, { gpus, pool }: PlacingOptions): GpuPlace | null {
  if (device === "cpu" || gpu === null) return null;
  const { memoryBytes } = gpus[gpu]!;
  const ranks = pool.ranks.filter((process) => process.gpu === gpu).length;
  const visible = visibleDevices({ inherited: process.env.CUDA_VISIBLE_DEVICES, index: gpu });
  return { visible, memoryBytes, ranks };
}

/** What every rank process is told of its place. */
function rankPlace(place: Place, { rank, process }: Taken, { node, host }: PlacingOptions): RankPlace {
  const { ranks } = place;
  return {
    generation: String(place.generation),
    jobId: place.jobId,
    layout: place.layout.size,
    rank,
    localRank: ranks.indexOf(rank),
    localWorldSize: ranks.length,
    nodeId: node,
    host,
    progressPage: process.progressPath,
    threads: threadsPerRank({ cores: availableParallelism(), ranks: ranks.length }),
    restarts: place.restarts,
  };
}

/** No state of it is kept, so it has no set of snapshots. */
function placeProgram(place: Place, job: CommandJob, taken: Taken, options: PlacingOptions): void {
  const { process } = taken;
  const { heartbeatPath: heartbeatFile } = process;
  const { stepHighest } = place;
  process.set = null;
  const shared = rankPlace(place, taken, options);
  process.send({ kind: "prepareProgram", ...shared, job, heartbeatFile, stepHighest });
}

function placeRank(place: Place, job: Job, taken: Taken, options: PlacingOptions): void {
  const { states, memoryBytes } = options;
  const { rank, process } = taken;
  const set = states.take(place, rank, process);
  process.send({
    kind: "prepare",
    ...rankPlace(place, taken, options),
    job,
    controlPage: process.controlPath,
    snapshotDir: set.path,
    pinned: set.pinned,
    replicate: place.replicate,
    kept: states.kept,
    peers: states.accessOf(place),
    memoryBytes: memoryBytes(),
    gpu: gpuPlace(place, process, options),
  });
}
