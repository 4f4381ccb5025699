/**
 * Memory of processes beside tensors and snapshots: measured on 2 nodes of 2 ranks that trained goku-nano, and on 2 ranks of a model thirty
 * times as large (Node 20, Debian 12). An approximation: the heap of JavaScript grows until it is collected.
 */
export const PROCESS_MEMORY = {
  /** Private to a rank: JavaScript (50 to 105 MiB were measured), the addon, thread stacks. */
  rankBytes: 100 * 2 ** 20,
  /** Of a node: its agent (105 MiB), the spare that is booted ahead (48), programs and libraries, once for all (40). */
  nodeBytes: 190 * 2 ** 20,
} as const;

/** Part of a node's memory that is left to the system. */
export const SYSTEM_FRACTION = 0.05;

/** Part of a GPU's memory that is left to its context, workspaces of libraries and kernels, and fragments. */
export const GPU_FRACTION = 0.1;

/**
 * What the CPU backend's allocator holds beyond the tensors that live at the widest moment, as a part of them: between packs of different
 * sizes its segments fragment. 3 to 30 % were measured after 10 to 30 steps, most with `recompute: none`.
 */
export const FRAGMENT_FRACTION = 0.25;
