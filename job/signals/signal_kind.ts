/** What a sign of trouble is about. */
export const SIGNAL_CLASSES = [
  "gpu_fault", // a GPU, its memory or its links
  "machine_fault", // memory, processor or bus of the machine
  "network_fault", // a network card, a cable, or a peer that cannot be reached
  "storage_fault", // a disk, a file system, or what is behind it
  "thermal", // held back by heat
  "out_of_memory", // the machine's memory is used up
  "gpu_out_of_memory", // a GPU's is
  "collective_fault", // a collective that others did not finish, wherever the cause is
  "data_fault", // data that cannot be decoded
  "program_error", // the program itself
] as const;
export type SignalClass = (typeof SIGNAL_CLASSES)[number];

/** Who is to be asked for it: the machine, the program that runs on it, or nobody can tell from this alone. */
export type SignalCause = "machine" | "program" | "unclear";

/**
 * What it leads to at once, on top of being shown and of explaining the faults that follow it:
 * `note`        nothing;
 * `suspect`     the node is examined as soon as it is free, and no other job gets it before;
 * `replace`     its ranks also go to a free node, where there is one, at their next vote, with a checkpoint; its job avoids it;
 * `quarantine`  its ranks end at once, and the node gets none until a person releases it or the machine boots anew.
 */
export type SignalAction = "note" | "suspect" | "replace" | "quarantine";

export interface SignalKind {
  class: SignalClass;
  cause: SignalCause;
  action: SignalAction;
  /** For people. */
  meaning: string;
}
