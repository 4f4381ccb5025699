import type { Incident } from "../../../gen/goku/v1/controller.pb.js";
import type { ErrorCode } from "../../../job/errors.js";

/** When a fault strikes. */
export const MOMENTS = ["computing", "collective", "saving", "forming", "recovering"] as const;
export type Moment = (typeof MOMENTS)[number];

/** The newest state that a fault left anywhere. */
export interface CopyLeft {
  step: number;
  where: "memory" | "checkpoint" | "initial values";
}

/** What a fault is in, and so what the product has to name. */
export type Culprit =
  | { kind: "rank"; rank: number; node: string }
  /** A node, its agent or its disk; two nodes that are lost, or between which nothing passes. */
  | { kind: "nodes"; nodes: readonly string[] }
  | { kind: "controller" }
  /** Addresses of the members that were lost, and whether those left can still agree. */
  | { kind: "etcd"; members: readonly string[]; quorum: boolean }
  /** Nothing is to be named. */
  | { kind: "nothing" };

/** What the product named: its incidents, what it decided and told, and what its members logged. */
export interface Named {
  ranks: readonly number[];
  nodes: readonly string[];
  controller: boolean;
  /** Addresses of members of etcd. */
  etcd: readonly string[];
}

/** What a generation has shown on its ranks' progress pages. */
export interface GenerationSeen {
  number: number;
  nodes: readonly string[];
  /** Newest step that every rank had completed. */
  step: number;
}

/** What is known of a cell once its job has ended, from the product's own records and from its memory and storage. */
export interface CellFacts {
  /** The job's phase, and why. */
  phase: string;
  reason: string;
  stepsTotal: number;
  /** Loss of each step that was told, as told last. */
  losses: ReadonlyMap<number, number>;
  /** First and last step told of each generation, in order. */
  generations: readonly { number: number; first: number; last: number }[];
  /** The same generations as the pages show them. */
  seen: readonly GenerationSeen[];
  incidents: readonly Incident[];
  /** Generation that the fault met, and what it left. */
  generationStruck: number;
  copyLeft: CopyLeft;
  /** Node of each rank when the fault struck. */
  nodesBefore: readonly string[];
  /** Nodes that are quarantined, drained or avoided in the end. */
  shunned: readonly string[];
  named: Named;
}

/** What a cell must show. */
export interface CellExpectation {
  /** The undisturbed run. */
  losses: ReadonlyMap<number, number>;
  /** How far a loss may be off where another layout computes it, relatively. */
  tolerance: number;
  /** Steps whose report may have gone with a process. */
  untoldMax: number;
  /** Nothing was wrong with training: no generation may end for it. */
  quiet: boolean;
  culprit: Culprit;
  /** What an incident has to be called; null: it is not told by a code alone. */
  code: ErrorCode | null;
  /** Nodes with something wrong; of these so many may lose their ranks, of the others none. */
  harmed: readonly string[];
  replacedMax: number;
}

/** A cell that was run. */
export interface CellResult {
  row: string;
  moment: Moment;
  failures: string[];
  detected: { by: string; seconds: number | null };
  localised: string;
  recovered: { by: string; seconds: number | null };
  stepsLost: number | null;
  losses: string;
  /** Of the whole cell. */
  seconds: number;
}
