/** One rank that loads checkpoints, forked by tests that count what all ranks read and look at every bit that they get. */
import path from "node:path";
import { openCheckpoint } from "../../../checkpoint/load.js";
import { STATE_KINDS, type StateName } from "../../../checkpoint/state.js";
import { openStorage, type Storage } from "../../../checkpoint/storage/storage.js";
import { toGokuError } from "../../../job/errors.js";
import { Layout } from "../../../job/layout.js";
import { shardPieces, shardRange } from "../../../job/sharding.js";
import type { Native } from "../../../worker/engine/native.js";
import { Arena } from "../../../worker/engine/tensor.js";
import { PAGE_BYTES } from "../../../worker/pages.js";
import { abortGroups, closeGroups, createGroups, type Groups } from "../../../worker/parallel/groups.js";
import { type LoadedBytes, type LoadedShard, loadCheckpoint } from "../../../worker/rank/load_checkpoint.js";
import { bitsOf, modelOf, type TestModel } from "../../checkpoint/fixtures.js";
import { type RankPlace, serveRank } from "../../support/rank_process.js";

/** One load by the first ranks. */
export interface LoadCase {
  shapes: Record<string, number[]>;
  /** Of the run, a path. */
  root: string;
  state: StateName;
  to: string;
  /** Shards that lack a kind of a unit, by "<kind>/<unit>"; null: all lack everything. */
  lacking: Record<string, number[]> | null;
  /** Rank whose storage gives no data any more, and whose generation then ends; null: none. */
  aborted: number | null;
}

export interface LoadTask {
  cases: LoadCase[];
  /** For pages. */
  folder: string;
}

export interface LoadFound {
  loaded: LoadedBytes;
  /** That this rank asked storage for, by kind of file. */
  dataBytes: number;
  manifestBytes: number;
  /** Of the shard that it should take and of what it should leave alone; empty: all bits as they should be. */
  fault: string;
  /** Tensors alive when it was over, beside the state. */
  live: number;
  peakBytes: number;
}

/** Null: this rank had no part. A text: what it failed with. */
export type LoadResult = (LoadFound | string | null)[];

/** In what a rank does not take: a number that no test state holds at every element. */
const UNTOUCHED = 12.5;

class LoadingRank {
  private readonly place: RankPlace;
  private readonly pages: [Uint8Array, Uint8Array];
  private readonly folder: string;

  constructor({ folder }: LoadTask, place: RankPlace) {
    this.place = place;
    this.folder = folder;
    const page = (name: string) =>
      place.native.pageMap(path.join(folder, `${name}.${place.rank}`), PAGE_BYTES);
    this.pages = [page("control"), page("progress")];
  }

  async run(cases: readonly LoadCase[]): Promise<LoadResult> {
    const results: LoadResult = [];
    for (const [i, one] of cases.entries()) {
      const layout = Layout.parse(one.to);
      if (this.place.rank >= layout.worldSize) results.push(null);
      else results.push(await this.load(i + 1, one, layout).catch((error: Error) => String(error.message)));
    }
    return results;
  }

  private async load(generation: number, one: LoadCase, layout: Layout): Promise<LoadFound> {
    const { native, rank } = this.place;
    const groups = await this.connect(generation, layout);
    const arena = new Arena(native);
    try {
      return await this.loadInto(arena, one, layout, groups);
    } catch (error) {
      abortGroups(native, groups);
      throw new Error(`${toGokuError(error).code}: rank ${rank}: ${(error as Error).message}`);
    } finally {
      arena.freeAll();
      closeGroups(native, groups);
    }
  }

  private async loadInto(arena: Arena, one: LoadCase, layout: Layout, groups: Groups): Promise<LoadFound> {
    const { native, rank } = this.place;
    const { model, shards } = emptyShards(arena, one, layout, rank);
    const asked = { dataBytes: 0, manifestBytes: 0 };
    const ended = new AbortController();
    const storage = counting(openStorage(one.root), (name, bytes) => {
      const isData = name.endsWith(".safetensors");
      asked[isData ? "dataBytes" : "manifestBytes"] += bytes;
      if (!isData || one.aborted !== rank) return true;
      setImmediate(() => ended.abort());
      return false;
    });
    const { lacking } = one;
    const wanting =
      lacking === null ? null : (kind: string, unit: string) => new Set(lacking[`${kind}/${unit}`] ?? []);
    const index = rank % layout.shardGroupSize;
    const takes = (kind: string, unit: string) => wanting === null || wanting(kind, unit).has(index);
    const checkpoint = await openCheckpoint(storage, one.state);
    native.memoryPeakReset();
    const before = native.memoryStats();
    const loaded = await loadCheckpoint({
      ...{ native, checkpoint, layout, rank, shards, groups, wanting, takes, signal: ended.signal },
    });
    const after = native.memoryStats();
    const live = after.liveTensors - before.liveTensors;
    const peakBytes = after.peakBytes - before.liveBytes;
    const fault = faultOf(native, shards, { one, model, layout, rank, takes });
    return { loaded, fault, live, peakBytes, ...asked };
  }

  private connect(generation: number, layout: Layout): Promise<Groups> {
    const { native, rank, members } = this.place;
    return createGroups(native, {
      job: path.basename(this.folder),
      generation: BigInt(generation),
      layout,
      rank,
      members: members.slice(0, layout.worldSize),
      abortPage: this.pages[0],
      progressPage: this.pages[1],
      timeoutMs: 60_000,
      transport: "auto",
    });
  }
}

type Shards = readonly LoadedShard[];

function emptyShards(arena: Arena, { shapes }: LoadCase, layout: Layout, rank: number) {
  const model = modelOf(shapes);
  const parts = layout.shardGroupSize;
  const shards: Shards = model.units.map((unit) => {
    const range = shardRange({ count: unit.count, parts, index: rank % parts });
    const run = () => {
      const tensor = arena.alloc("f32", range.length);
      if (range.length > 0) arena.native.tensorFill(tensor.id, UNTOUCHED);
      return tensor;
    };
    return { unit, range, model: run(), ema: run(), adam_m: run(), adam_v: run() };
  });
  return { model, shards };
}

/** The first element that is not as it should be; empty: none. */
function faultOf(
  native: Native,
  shards: Shards,
  of: {
    one: LoadCase;
    model: TestModel;
    layout: Layout;
    rank: number;
    takes: (kind: string, unit: string) => boolean;
  },
): string {
  for (const shard of shards) {
    for (const kind of STATE_KINDS) {
      const words = new Uint32Array(shard[kind].count);
      if (words.length > 0) native.tensorRead(shard[kind].id, 0, new Uint8Array(words.buffer));
      if (!of.takes(kind, shard.unit.name)) {
        if (new Float32Array(words.buffer).some((value) => value !== UNTOUCHED))
          return `${kind}/${shard.unit.name} was written`;
        continue;
      }
      for (const piece of shardPieces([shard.unit], of.layout, of.rank)) {
        const wanted = bitsOf(of.one.state, `${kind}/${piece.parameter}`);
        for (let i = 0; i < piece.length; i++)
          if (words[piece.shardOffset + i] !== wanted(piece.start + i))
            return `${kind}/${piece.parameter}[${piece.start + i}] differs`;
      }
    }
  }
  return "";
}

/** Tells what is asked of it, by name; `onRead` says whether it is to answer. */
function counting(storage: Storage, onRead: (name: string, bytes: number) => boolean): Storage {
  return new Proxy(storage, {
    get: (target, key) => {
      if (key === "read")
        return (name: string, offset: number, into: Uint8Array) => {
          if (!onRead(name, into.byteLength)) return new Promise(() => {});
          return target.read(name, offset, into);
        };
      if (key === "readFile")
        return async (name: string, bytesMax: number) => {
          const bytes = await target.readFile(name, bytesMax);
          onRead(name, bytes.byteLength);
          return bytes;
        };
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

serveRank<LoadTask, LoadResult>((task, place) => new LoadingRank(task, place).run(task.cases));
