import assert from "node:assert/strict";
import path from "node:path";
import type { StateName } from "../../../checkpoint/state.js";
import { type Job, jobSchema, modelConfig } from "../../../job/job.js";
import type { PackBatch, PackSource } from "../../../worker/data/pack_batch.js";
import { loadNative } from "../../../worker/engine/load_native.js";
import { RankMachine, type RankMachineOptions } from "../../../worker/rank/rank_machine.js";
import type { FromRank, GpuPlace, ToRank } from "../../../worker/rank_messages.js";
import { PEER_ACCESS } from "../../support/peers.js";
import { syntheticSource } from "../parallel/synthetic_packs.js";

export const native = loadNative();

/** A job of a model that is trained in a moment, on packs made of numbers. */
export function smallJob(
  overrides: { precision?: "fp32" | "bf16"; steps?: number; checkpoint?: object } = {},
): Job {
  return jobSchema.parse({
    name: "machine",
    precision: overrides.precision ?? "fp32",
    model: { preset: "goku-nano", depth: 1, width: 8, heads: 2, text_width: 8, frequency_width: 8 },
    data: { media: "unused" },
    train: { steps: overrides.steps ?? 1, packs_per_step: 1 },
    checkpoint: { uri: "file:///unused", ...overrides.checkpoint },
  });
}

export interface RankOptions extends Partial<RankMachineOptions> {
  job: Job;
  /** Of its node. */
  memoryBytes?: number;
  gpu?: GpuPlace;
  /** Where its pages are. */
  folder: string;
  /** Sees every answer as it is sent. */
  onAnswer?: (answer: FromRank) => void;
}

/** A rank process as its agent sees it: commands in, answers out. */
export class Rank {
  private readonly machine: RankMachine;
  private readonly options: RankOptions;
  private readonly answers: FromRank[] = [];
  private arrived = () => {};

  constructor(options: RankOptions) {
    this.options = options;
    const send = (message: FromRank) => {
      options.onAnswer?.(message);
      this.answers.push(message);
      this.arrived();
    };
    const openSource = () => assert.fail("no data is asked for");
    this.machine = new RankMachine({
      native: () => native,
      version: "0",
      revision: null,
      openSource,
      ...options,
      send,
    });
  }

  tell(message: ToRank): void {
    this.machine.receive(message);
  }

  /** Sends a command, and waits for the answer of that kind, or for a failure. */
  async ask<Kind extends FromRank["kind"]>(message: ToRank, kind: Kind) {
    this.answers.length = 0;
    this.tell(message);
    for (;;) {
      const found = this.answers.find((answer) => answer.kind === kind || answer.kind === "failed");
      if (found) return found as Extract<FromRank, { kind: Kind | "failed" }>;
      await new Promise<void>((resolve) => {
        this.arrived = resolve;
      });
    }
  }

  connect(generation: string) {
    const members = [{ rank: 0, nodeId: "n", host: "127.0.0.1", port: 1, pid: process.pid }];
    return this.ask({ kind: "connect", generation, members }, "connected");
  }

  prepare(generation: string, snapshotDir: string, replicate = false) {
    const { job, folder } = this.options;
    const message: ToRank = {
      kind: "prepare",
      generation,
      jobId: "j",
      job,
      layout: { dp_replicate: 1, dp_shard: 1, sp: 1 },
      rank: 0,
      localRank: 0,
      localWorldSize: 1,
      restarts: 0,
      nodeId: "n",
      host: "127.0.0.1",
      controlPage: path.join(folder, "control"),
      progressPage: path.join(folder, "progress"),
      snapshotDir,
      pinned: [],
      replicate,
      kept: null,
      peers: PEER_ACCESS,
      memoryBytes: this.options.memoryBytes ?? 2 ** 34,
      gpu: this.options.gpu ?? null,
      threads: 1,
    };
    return this.ask(message, "ready");
  }
}

/** A state of the one rank that lies in a slot file. */
export function inMemory(state: StateName, file: string) {
  const layout = { dp_replicate: 1, dp_shard: 1, sp: 1 };
  const files = [{ rank: 0, path: file }];
  return { kind: "snapshot" as const, state, layout, files, places: [], durable: null };
}

/** `change` may do something to the pack of a step. */
export function sourceOf(
  job: Job,
  digest: string,
  change: (pack: PackBatch, step: number) => PackBatch = (pack) => pack,
): PackSource {
  return syntheticSource({ model: modelConfig(job), packsPerStep: 1, digest, change });
}
