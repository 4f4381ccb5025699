/** One process of bench/checkpoint.ts: a rank with its slots, an agent that saves, or a rank that loads. */
import path from "node:path";
import { openCheckpoint } from "../checkpoint/load.js";
import { commitCheckpoint, saveShard } from "../checkpoint/save.js";
import { readSnapshotHeader, snapshotLayout } from "../checkpoint/snapshot.js";
import { STATE_KINDS, type StateMeta } from "../checkpoint/state.js";
import { Layout } from "../job/layout.js";
import type { ModelConfig } from "../job/model_config.js";
import { parameterSpecs } from "../job/parameters.js";
import { type FlatUnit, flatUnits, shardRange } from "../job/sharding.js";
import { nothingSeen } from "../job/spikes.js";
import { loadNative } from "../worker/engine/load_native.js";
import type { CommEndpoint, Native } from "../worker/engine/native.js";
import { Arena } from "../worker/engine/tensor.js";
import { PAGE_BYTES } from "../worker/pages.js";
import { createGroups, type Groups } from "../worker/parallel/groups.js";
import { type LoadedShard, loadCheckpoint } from "../worker/rank/load_checkpoint.js";
import { SnapshotPages } from "../worker/rank/snapshot_pages.js";

export type ToCheckpointRank =
  | { kind: "open"; model: ModelConfig; layout: string; rank: number; folder: string }
  /** One optimizer step over all of the state; `snapshot`: into the other slot, which is then sealed. */
  | { kind: "step"; snapshot: boolean }
  /** Writes the parts of these ranks; the agent of rank 0 commits. */
  | { kind: "save"; model: ModelConfig; layout: string; ranks: { rank: number; slot: string }[]; uri: string }
  /** Makes room for its part of the state, and listens for the other ranks. */
  | { kind: "listen"; model: ModelConfig; layout: string; rank: number }
  | { kind: "connect"; members: CommEndpoint[]; folder: string }
  /** Loads its part, with the others. */
  | { kind: "load"; uri: string };
export interface FromCheckpointRank {
  seconds: number;
  /** Of this process's part of the state. */
  bytes: number;
  /** The slot that holds the newest whole state. */
  slot: string | null;
  /** Where it listens; 0: nowhere. */
  port: number;
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

/** A rank that loads into tensors it has, as one that takes its place does. */
class LoadingRank {
  private readonly native = loadNative();
  private readonly layout: Layout;
  private readonly rank: number;
  private readonly shards: LoadedShard[];
  private groups: Groups | null = null;
  readonly port: number;

  constructor({ model, layout, rank }: Extract<ToCheckpointRank, { kind: "listen" }>) {
    this.layout = Layout.parse(layout);
    this.rank = rank;
    this.native.threadsSet(1);
    const arena = new Arena(this.native);
    const parts = this.layout.shardGroupSize;
    this.shards = flatUnits(parameterSpecs(model)).map((unit) => {
      const range = shardRange({ count: unit.count, parts, index: rank % parts });
      const run = () => arena.zeros("f32", range.length);
      return { unit, range, model: run(), ema: run(), adam_m: run(), adam_v: run() };
    });
    this.port = this.native.commListen("127.0.0.1");
  }

  async connect({ members, folder }: Extract<ToCheckpointRank, { kind: "connect" }>): Promise<void> {
    const page = (name: string) => this.native.pageMap(path.join(folder, `${name}.${this.rank}`), PAGE_BYTES);
    this.groups = await createGroups(this.native, {
      ...{ job: "bench", generation: 1n, layout: this.layout, rank: this.rank, members },
      ...{ abortPage: page("control"), progressPage: page("progress") },
      ...{ timeoutMs: 60_000, transport: "auto" },
    });
  }

  async load(uri: string): Promise<number> {
    const { native, layout, rank, shards } = this;
    const checkpoint = await openCheckpoint(uri);
    const signal = new AbortController().signal;
    const all = { wanting: null, takes: () => true };
    const loaded = await loadCheckpoint({
      ...{ native, checkpoint, layout, rank, shards, groups: this.groups!, signal, ...all },
    });
    return loaded.taken;
  }
}

let rank: BenchRank | null = null;
let loader: LoadingRank | null = null;

async function execute(order: ToCheckpointRank): Promise<FromCheckpointRank> {
  const begun = performance.now();
  const answer = (seconds: number, bytes: number) => ({
    ...{ seconds, bytes, slot: rank?.slot ?? null, port: loader?.port ?? 0 },
  });
  switch (order.kind) {
    case "open":
      rank = new BenchRank(order);
      return answer(0, rank.bytes);
    case "step":
      return answer(rank!.run(order.snapshot), rank!.bytes);
    case "save":
      await save(order);
      return answer((performance.now() - begun) / 1000, 0);
    case "listen":
      loader = new LoadingRank(order);
      return answer(0, 0);
    case "connect":
      await loader!.connect(order);
      return answer(0, 0);
    case "load": {
      const bytes = await loader!.load(order.uri);
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
