/** One process of bench/checkpoint.ts: a rank with its slots, an agent that saves, or a rank that loads. */
import { openCheckpoint } from "../checkpoint/load.js";
import { commitCheckpoint, saveShard } from "../checkpoint/save.js";
import { readSnapshotHeader, snapshotLayout } from "../checkpoint/snapshot.js";
import { STATE_KINDS, type StateMeta } from "../checkpoint/state.js";
import { Layout } from "../job/layout.js";
import type { ModelConfig } from "../job/model_config.js";
import { parameterSpecs } from "../job/parameters.js";
import { type FlatUnit, flatUnits } from "../job/sharding.js";
import { nothingSeen } from "../job/spikes.js";
import { loadNative } from "../worker/engine/load_native.js";
import type { Native } from "../worker/engine/native.js";
import { SnapshotPages } from "../worker/rank/snapshot_pages.js";

export type ToCheckpointRank =
  | { kind: "open"; model: ModelConfig; layout: string; rank: number; folder: string }
  /** One optimizer step over all of the state; `snapshot`: into the other slot, which is then sealed. */
  | { kind: "step"; snapshot: boolean }
  /** Writes the parts of these ranks; the agent of rank 0 commits. */
  | { kind: "save"; model: ModelConfig; layout: string; ranks: { rank: number; slot: string }[]; uri: string }
  | { kind: "load"; model: ModelConfig; layout: string; rank: number; uri: string };
export interface FromCheckpointRank {
  seconds: number;
  /** Of this process's part of the state. */
  bytes: number;
  /** The slot that holds the newest whole state. */
  slot: string | null;
}

class BenchRank {
  private readonly native: Native;
  private readonly units: FlatUnit[];
  private readonly layout: Layout;
  private readonly rank: number;
  private readonly pages: SnapshotPages;
  private readonly gradients: number[];
  readonly bytes: number;
  private live = 0;
  private step = 1;

  constructor(options: Extract<ToCheckpointRank, { kind: "open" }>) {
    this.native = loadNative();
    this.native.threadsSet(1);
    this.units = flatUnits(parameterSpecs(options.model));
    this.layout = Layout.parse(options.layout);
    this.rank = options.rank;
    const plan = snapshotLayout(this.units, this.layout, this.rank);
    this.bytes = plan.entries.reduce((sum, { count }) => sum + 4 * count, 0);
    this.pages = new SnapshotPages(this.native, options.folder, plan);
    for (let slot = 0; slot < 2; slot++) {
      for (const unit of this.pages.begin(slot, true).tensors)
        for (const [i, kind] of STATE_KINDS.entries()) this.native.tensorFill(unit[kind].id, 0.1 + i);
    }
    this.gradients = this.pages.tensors(0).map(({ model }) => {
      const tensor = this.native.tensorAlloc(0, model.count);
      this.native.tensorFill(tensor, 0.01);
      return tensor;
    });
    this.run(true);
  }

  /** Seconds of one optimizer step, with what makes it leave a snapshot. */
  run(snapshot: boolean): number {
    const begun = performance.now();
    const from = this.pages.tensors(this.live);
    const to = snapshot ? 1 - this.live : this.live;
    const target = this.pages.begin(to, snapshot);
    this.step++;
    for (const [i, unit] of from.entries()) {
      const { model, adam_m, adam_v, ema } = target.tensors[i]!;
      if (model.count === 0) continue;
      this.native.adamwStep(
        unit.model.id,
        unit.adam_m.id,
        unit.adam_v.id,
        unit.ema.id,
        model.id,
        adam_m.id,
        adam_v.id,
        ema.id,
        this.gradients[i]!,
        0,
        Float64Array.of(0, model.count, 1),
        1e-3,
        0.9,
        0.95,
        1e-8,
        0.01,
        1,
        0.999,
        this.step,
        target.checksums[i]!,
      );
    }
    this.live = to;
    if (snapshot) this.pages.seal(to, { meta: this.meta(), rank: this.rank });
    return (performance.now() - begun) / 1000;
  }

  get slot(): string {
    return this.pages.slotPath(this.live);
  }

  private meta(): StateMeta {
    return {
      state: { generation: "1", step: 1 },
      parent: null,
      job: {},
      layout: this.layout.size,
      adamStep: 1,
      dataDigest: "none",
      codec: null,
      exclusions: [],
      leftOut: [],
      numbers: nothingSeen(),
      version: "bench",
    };
  }
}

async function save(order: Extract<ToCheckpointRank, { kind: "save" }>): Promise<void> {
  const units = flatUnits(parameterSpecs(order.model));
  const layout = Layout.parse(order.layout);
  const common = { uri: order.uri, layout, units, generation: "1" };
  await Promise.all(order.ranks.map(({ rank, slot }) => saveShard({ ...common, rank, slotPath: slot })));
  const first = order.ranks.find(({ rank }) => rank === 0);
  if (!first) return;
  const { meta } = readSnapshotHeader(first.slot)!;
  await commitCheckpoint({ ...common, meta, waitMs: 120_000 });
}

async function load(order: Extract<ToCheckpointRank, { kind: "load" }>): Promise<number> {
  const units = flatUnits(parameterSpecs(order.model));
  const layout = Layout.parse(order.layout);
  const checkpoint = await openCheckpoint(order.uri);
  let bytes = 0;
  for (const { name } of units) {
    for (const kind of STATE_KINDS)
      bytes += (await checkpoint.readRank(units, layout, order.rank, kind, name)).byteLength;
  }
  return bytes;
}

let rank: BenchRank | null = null;

async function execute(order: ToCheckpointRank): Promise<FromCheckpointRank> {
  const begun = performance.now();
  const answer = (seconds: number, bytes: number) => ({ seconds, bytes, slot: rank?.slot ?? null });
  switch (order.kind) {
    case "open":
      rank = new BenchRank(order);
      return answer(0, rank.bytes);
    case "step":
      return answer(rank!.run(order.snapshot), rank!.bytes);
    case "save":
      await save(order);
      return answer((performance.now() - begun) / 1000, 0);
    case "load": {
      const bytes = await load(order);
      return answer((performance.now() - begun) / 1000, bytes);
    }
  }
}

process.on("message", (order: ToCheckpointRank) => {
  execute(order).then(
    (answer) => process.send?.(answer),
    (error: unknown) => {
      console.error(error);
      process.exit(1);
    },
  );
});
