import type { CounterName, LinkName } from "../../job/signals/counters.js";
import type { PlannedFault } from "./fault_plan.js";
import type { Random } from "./random.js";

/** What machines, and programs of them, say of their own trouble, and what the platform says that runs them. */
export type SignHardship =
  /** A line of the kernel. A rank of the node may end with it, and somebody starts the machine anew after a while. */
  | { kind: "kernelSays"; index: number; line: string; kills: boolean; bootsAfterMs: number | null }
  | {
      kind: "countsErrors";
      index: number;
      counter: CounterName;
      perMinute: number;
      all: boolean;
      forMs: number;
    }
  | { kind: "linkFalls"; index: number; link: LinkName; forMs: number }
  /** A rank writes that. Then it goes on, stands still for a while or for ever, or ends. */
  | {
      kind: "writesWords";
      index: number;
      line: string;
      outcome: "goesOn" | "stands" | "ends";
      forMs: number | null;
    }
  /** The kernel kills a rank for memory, and may say whom. */
  | { kind: "killedForMemory"; index: number; named: boolean; afterMs: number }
  /** The pod of an agent ends; the platform tells so after a while. */
  | { kind: "podEnds"; index: number; how: PodEnd; toldMs: number; forMs: number };

export type PodEnd = "killedForMemory" | "evicted" | "deleted";

const XIDS = [13, 31, 43, 48, 63, 79, 94, 95, 109, 119].map(
  (xid) => `NVRM: Xid (PCI:0000:3b:00): ${xid}, pid=1, name=node, trouble`,
);
const KERNEL = [
  ...XIDS,
  "NVRM: GPU at PCI:0000:3b:00.0: GPU has fallen off the bus",
  "EDAC mc0: 1 UE memory read error on CPU_SrcID#0",
  "EDAC mc0: 1 CE memory read error on CPU_SrcID#0",
  "blk_update_request: I/O error, dev sda, sector 1",
];
const COUNTED: readonly [CounterName, number][] = [
  ["memory_correctable", 200],
  ["memory_uncorrectable", 12],
  ["net_errors", 2_000],
  ["link_flaps", 20],
  ["ib_symbol_errors", 500],
  ["gpu_remap_pending", 12],
  ["gpu_remap_failed", 12],
  ["thermal_throttles", 3_000],
];
const LINKS: readonly LinkName[] = ["link_down", "ib_down", "gpu_lost", "gpu_silent"];
const WORDS = [
  "CUDA error: uncorrectable ECC error encountered",
  "CUDA error: GPU is lost",
  "NET/IB : Got async event : port error",
  "CUDA error: an illegal memory access was encountered",
  "torch.OutOfMemoryError: CUDA out of memory",
  "NCCL WARN Timeout waiting for connection",
  "std::bad_alloc",
];

const index = (random: Random) => random.between(0, 1_000);
const MAKERS: Record<SignHardship["kind"], (random: Random) => SignHardship> = {
  kernelSays: (r) => ({
    kind: "kernelSays",
    index: index(r),
    line: r.pick(KERNEL),
    kills: r.chance(0.5),
    bootsAfterMs: r.chance(0.5) ? r.between(1_000, 30_000) : null,
  }),
  countsErrors: (r) => {
    const [counter, perMinute] = r.pick(COUNTED);
    return {
      kind: "countsErrors",
      index: index(r),
      counter,
      perMinute,
      all: r.chance(0.3),
      forMs: r.between(10_000, 90_000),
    };
  },
  linkFalls: (r) => ({
    kind: "linkFalls",
    index: index(r),
    link: r.pick(LINKS),
    forMs: r.between(3_000, 60_000),
  }),
  writesWords: (r) => ({
    kind: "writesWords",
    index: index(r),
    line: r.pick(WORDS),
    outcome: r.pick(["goesOn", "stands", "stands", "ends"] as const),
    forMs: r.chance(0.4) ? r.between(500, 20_000) : null,
  }),
  killedForMemory: (r) => ({
    kind: "killedForMemory",
    index: index(r),
    named: r.chance(0.5),
    afterMs: r.between(0, 3_000),
  }),
  podEnds: (r) => ({
    kind: "podEnds",
    index: index(r),
    how: r.pick(["killedForMemory", "evicted", "deleted"] as const),
    toldMs: r.pick([10, 300, 2_000, 8_000]),
    forMs: r.between(500, 30_000),
  }),
};

/** In one seed of four a few kinds, from a stream of their own. */
export function planSigns(random: Random, untilMs: number): PlannedFault[] {
  if (!random.chance(0.25)) return [];
  const all = Object.keys(MAKERS) as SignHardship["kind"][];
  const kinds = all.filter(() => random.chance(0.4));
  if (kinds.length === 0) kinds.push(random.pick(all));
  return Array.from({ length: random.between(1, 6) }, () => ({
    atMs: random.between(2_000, untilMs - 1),
    fault: MAKERS[random.pick(kinds)](random),
  }));
}
