/**
 * Layout of the two shared-memory pages of a rank: plain little-endian words in a tmpfs file.
 *
 * Control page: written by the agent, read by the rank's native threads while they wait.
 * Progress page: written by the rank (native thread and training loop), read by the agent at every heartbeat.
 * Torn reads are harmless: numbers only grow within a generation, and verdicts need several rounds.
 * Offsets are bytes. `native/collectives/pages.h` declares the same.
 */
export const PAGE_BYTES = 4096;

export const CONTROL = {
  /** u64: 0 run on; otherwise abort every collective of generations <= this number. */
  abortGeneration: 0,
  /** i32: world rank named as the cause, -1 unknown. Written before abortGeneration. */
  abortPeer: 8,
  /** u32: ErrorNumber of the cause (0 none). */
  abortReason: 12,
} as const;

export const PROGRESS = {
  generation: 0, // u64
  step: 8, // u64: last step applied
  microStep: 16, // u32: pack index within the step being computed
  phase: 20, // u32: PHASE
  layer: 24, // i32: block index, -1 outside the blocks
  pid: 28, // u32
  /** u64 monotonic ms of the last change of step, microStep, phase or layer, or of the last sign of life while it waits for data. */
  changedMs: 32,
  /**
   * Collectives over all groups of the rank, the connecting of a group included. Entered: begun on its group's thread.
   * Completed: the last one before which all are. Kind, group and bytes describe the oldest one that is not completed,
   * so that a blocked collective is not hidden by a later one of another group; else the last one.
   */
  collectiveEntered: 48, // u64 sequence number, counts from 1 in each generation
  collectiveCompleted: 56, // u64
  collectiveKind: 64, // u32: COLLECTIVE
  collectiveGroup: 68, // u32: FNV-1a of the group's name
  collectiveBytes: 72, // u64
  collectiveGroupName: 80, // GROUP_NAME_BYTES, NUL-padded
  /**
   * What this rank's own steps have taken since the generation began: sums over the steps that it has completed, written
   * together after each. Whoever reads misses nothing between two looks, and differences give any interval.
   */
  timedSteps: 112, // u64: steps in the sums
  timedWork: 120, // u64: work of this rank's packs, millions of multiply-adds forward (see worker/model/pack_work.ts)
  forwardUs: 128, // u64 microseconds over these packs, waiting for other ranks excluded
  backwardUs: 136, // u64, as above
  optimizerUs: 144, // u64
  dataUs: 152, // u64: waiting for the packs
  waitUs: 160, // u64: waiting for other ranks, in all sections
  // Parts of waitUs, u64, by collective; the vote is the all-reduce at the end of a step.
  waitAllGatherUs: 168,
  waitReduceScatterUs: 176,
  waitAllReduceUs: 184,
  waitAllToAllUs: 192,
  waitVoteUs: 200,
  /** Of this process, whatever its generation: the newest state that it has made a whole snapshot of. */
  snapshotStep: 208, // u64
  snapshotMs: 216, // u64 Unix ms when that was; 0: none yet
  snapshotsFailed: 224, // u64: snapshots that could not be made
} as const;
export const GROUP_NAME_BYTES = 32;

export const PHASE = {
  idle: 0,
  forming: 1,
  restore: 2,
  data: 3,
  forward: 4,
  backward: 5,
  reduce: 6,
  vote: 7,
  optimizer: 8,
  snapshot: 9,
  finished: 10,
  /** The rank is a program of its own; its micro-steps are its heartbeats. */
  program: 11,
} as const;
export type PhaseName = keyof typeof PHASE;
export const COLLECTIVE = {
  none: 0,
  allGather: 1,
  reduceScatter: 2,
  allReduce: 3,
  allToAll: 4,
  broadcast: 5,
  barrier: 6,
  connect: 7,
} as const;
export type CollectiveName = keyof typeof COLLECTIVE;
