import type { ErrorCode } from "../../../job/errors.js";
import type { Culprit, Moment } from "./cell.js";
import type { CellRun } from "./cell_run.js";
import type { ControlFacts } from "./control_story.js";

/** A fault at one moment: its failpoints, and what is done from outside when they are reached. */
export interface Strike {
  failpoints: readonly string[];
  /** Of these, the one at which it strikes. */
  at: string;
  act: (run: CellRun) => Promise<void>;
  /** Instead of the row's, where this moment needs a run of its own. */
  steps?: number;
  overrides?: readonly string[];
}

/** Faults of one kind, of which the page tells together. */
export const CLASSES = {
  death: "a rank dies",
  hang: "a rank hangs",
  wrong: "a rank computes wrong, or slowly",
  copies: "a copy of the state is damaged",
  disk: "a disk fails",
  node: "an agent or nodes are lost",
  network: "nodes cannot reach each other",
  sight: "an agent cannot reach the controller",
  controller: "the controller is lost or deposed",
  etcd: "members of etcd are lost",
  clock: "a clock jumps",
} as const;
export type FaultClass = keyof typeof CLASSES;

export interface FaultRow {
  id: string;
  title: string;
  class: FaultClass;
  /** Absent moments: the fault cannot strike then; `absent` says why. */
  strikes: Partial<Record<Moment, Strike>>;
  absent: string;
  nodes: number;
  /** What dies is started again, as by a kubelet. */
  restart: boolean;
  steps: number;
  overrides: readonly string[];
  untoldMax: number;
  /** Moments at which nothing is wrong with training itself. */
  quiet: readonly Moment[];
  /** Whom the product has to name, once it has struck. */
  culprit: (run: CellRun) => Culprit;
  /** What its incident has to be called, where that says more than whom it names. */
  code: ErrorCode | null;
  /** What it is in beside training; null: it is in training or its nodes. */
  control: ControlFacts["what"] | null;
  replacedMax: number;
  needs: "nothing" | "network" | "memory limits" | "etcd";
  /** Where the controllers' store is etcd. */
  etcd: { members: number; standbys: number } | null;
}
