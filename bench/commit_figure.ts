import { setTimeout as sleep } from "node:timers/promises";
import { commitCheckpoint } from "../checkpoint/commit.js";
import { CHUNK_BYTES, digestOf } from "../checkpoint/digest.js";
import { encodeWriterManifest, metaDigest } from "../checkpoint/manifest.js";
import { checkpointFolder, dataName, writerManifestName } from "../checkpoint/names.js";
import { writePlan } from "../checkpoint/plan.js";
import type { StateMeta } from "../checkpoint/state.js";
import type { Storage, StorageEntry } from "../checkpoint/storage/storage.js";
import { GokuError } from "../job/errors.js";
import { Layout } from "../job/layout.js";
import { MODEL_PRESETS, modelConfigSchema } from "../job/model_config.js";
import { parameterSpecs } from "../job/parameters.js";
import { flatUnits } from "../job/sharding.js";
import { nothingSeen } from "../job/spikes.js";
import type { PlanFigure } from "./plan_figures.js";

/** Every request waits so long, however many are under way: a bucket in the same region. */
const LATENCY_MS = 10;
/** Keys in a page of a listing, as S3 answers them. */
const PAGE_KEYS = 1_000;

/** What a commit asks of a storage, each answer late; data files are sizes alone. */
class LateStorage
  implements Pick<Storage, "uri" | "list" | "stat" | "readFile" | "createExclusive" | "delete">
{
  readonly uri = "s3://bench/late";
  readonly sizes = new Map<string, number>();
  readonly small = new Map<string, Uint8Array>();
  requestCount = 0;

  async list(prefix: string): Promise<StorageEntry[]> {
    const keys = [...this.sizes.keys()].filter((key) => key.startsWith(prefix)).sort();
    for (let page = 0; page <= keys.length; page += PAGE_KEYS) await this.request();
    return keys.map((key) => ({ key, bytes: this.sizes.get(key)! }));
  }

  async stat(key: string): Promise<StorageEntry | null> {
    await this.request();
    const bytes = this.sizes.get(key);
    return bytes === undefined ? null : { key, bytes };
  }

  async readFile(key: string): Promise<Uint8Array> {
    await this.request();
    const bytes = this.small.get(key);
    if (bytes === undefined) throw new GokuError("NOT_FOUND", `Cannot read ${key}: there is no such key`);
    return bytes;
  }

  async createExclusive(key: string, bytes: Uint8Array): Promise<boolean> {
    await this.request();
    if (this.sizes.has(key)) return false;
    this.put(key, bytes);
    return true;
  }

  async delete(keys: readonly string[]): Promise<void> {
    await this.request();
    for (const key of keys) for (const map of [this.sizes, this.small]) map.delete(key);
  }

  put(key: string, bytes: Uint8Array): void {
    this.small.set(key, bytes);
    this.sizes.set(key, bytes.byteLength);
  }

  private async request(): Promise<void> {
    this.requestCount++;
    await sleep(LATENCY_MS);
  }
}

function metaOf(layout: Layout): StateMeta {
  return {
    state: { generation: "1", step: 100 },
    parent: null,
    job: { name: "bench" },
    layout: layout.size,
    adamStep: 100,
    dataDigest: "d".repeat(64),
    codec: null,
    exclusions: [],
    leftOut: [],
    numbers: nothingSeen(),
    version: "0.1.0",
  };
}

/** From the last writer's manifest to the commit record, 8B parameters written by 8,192 ranks. */
export async function commitFigures(): Promise<PlanFigure[]> {
  const units = flatUnits(parameterSpecs(modelConfigSchema.parse(MODEL_PRESETS["goku-8b"])));
  const layout = new Layout({ dp_replicate: 8, dp_shard: 256, sp: 4 });
  const meta = metaOf(layout);
  const storage = new LateStorage();
  writeManifests(storage, { units, layout, meta });
  const begun = performance.now();
  await commitCheckpoint({ uri: storage as never, meta, units, layout, generation: "1", waitMs: 60_000 });
  const seconds = (performance.now() - begun) / 1000;
  return [
    { name: "commit of 8,192 writers, 10 ms a request", value: seconds, unit: "s", limit: 10 },
    { name: "requests that it makes", value: storage.requestCount, unit: "", limit: null },
  ];
}

function writeManifests(
  storage: LateStorage,
  { units, layout, meta }: { units: ReturnType<typeof flatUnits>; layout: Layout; meta: StateMeta },
): void {
  const { state } = meta;
  const folder = checkpointFolder(state.step);
  const plan = writePlan(units, layout);
  const digest = digestOf(Buffer.from("some chunk"));
  const common = { state, meta: metaDigest(meta), generation: "1", layout: layout.size, plan: plan.digest };
  const headerBytes = 4_096;
  for (let writer = 0; writer < layout.worldSize; writer++) {
    let offset = headerBytes;
    const intervals = plan.intervals(writer).map(({ tensor, start, length }) => {
      const bytes = 4 * length;
      const digests = new Array<string>(Math.ceil(bytes / CHUNK_BYTES)).fill(digest);
      const interval = { tensor, start, length, offset, bytes, digests };
      offset += bytes;
      return interval;
    });
    const name = dataName("1", writer);
    const file = { name, bytes: offset, headerBytes, headerDigest: digest };
    storage.sizes.set(`${folder}/${name}`, offset);
    storage.put(
      `${folder}/${writerManifestName("1", writer)}`,
      encodeWriterManifest({ ...common, writer, file, intervals }),
    );
  }
}
