import { failuresText, readMemory, type SnapshotSource } from "../../checkpoint/read_memory.js";
import { SnapshotReader } from "../../checkpoint/snapshot.js";
import type { StateMeta } from "../../checkpoint/state.js";
import { GokuError } from "../../job/errors.js";
import { Layout } from "../../job/layout.js";
import type { ModelConfig } from "../../job/model_config.js";
import { parameterSpecs } from "../../job/parameters.js";
import { type FlatUnit, flatUnits } from "../../job/sharding.js";
import type { Arena, Tensor } from "../engine/tensor.js";
import type { ToPreview } from "../preview_messages.js";
import { remoteSnapshot } from "../rank/remote_snapshot.js";

/** One rank that holds everything. */
const WHOLE = new Layout({ dp_replicate: 1, dp_shard: 1, sp: 1 });

/**
 * Reads the averaged weights of a state out of its shards, on this node and others, as a restore does; each chunk is checked
 * and goes straight to its place, so that the model is in memory once.
 * @returns the tensor of each parameter, and what the state says of itself
 * @throws SNAPSHOT_MISSING where a shard cannot be had any more
 */
export async function readWeights(
  arena: Arena,
  model: ModelConfig,
  { jobId, source, peers }: Pick<ToPreview, "jobId" | "source" | "peers">,
): Promise<{ tensors: ReadonlyMap<string, Tensor>; meta: StateMeta }> {
  const specs = parameterSpecs(model);
  const units = flatUnits(specs);
  const tensors = new Map(specs.map(({ name, count }) => [name, arena.alloc("f32", count)]));
  const byName = new Map(units.map((unit) => [unit.name, unit]));
  const layout = new Layout(source.layout);
  const signal = new AbortController().signal; // whoever wants it no more ends the process
  const remote = { jobId, state: source.state, layout, access: peers, peer: null, signal };
  const ofShard = (shard: number): SnapshotSource[] => {
    const isSame = ({ rank }: { rank: number }) => rank % layout.shardGroupSize === shard;
    return [
      ...source.files.filter(isSame).map(({ rank, path }) => ({
        name: `rank ${rank} on this node`,
        open: () => SnapshotReader.open(path),
      })),
      ...source.places.filter(isSame).map((place) => remoteSnapshot(remote, place)),
    ];
  };
  const read = await readMemory({
    units,
    state: source.state,
    from: layout,
    to: WHOLE,
    rank: 0,
    kinds: ["ema"],
    sources: ofShard,
    write: ({ unit, offset, bytes }) => scatter(arena, tensors, byName.get(unit)!, { offset, bytes }),
  });
  if (read.missing.length === 0) return { tensors, meta: read.meta! };
  throw new GokuError(
    "SNAPSHOT_MISSING",
    `Cannot read the averaged weights of step ${source.state.step}: ${failuresText(read.failures)}`,
  );
}

/** Elements of a unit, which may be of several parameters. */
function scatter(
  { native }: Arena,
  tensors: ReadonlyMap<string, Tensor>,
  { parameters }: FlatUnit,
  { offset, bytes }: { offset: number; bytes: Uint8Array },
): void {
  const end = offset + bytes.byteLength / 4;
  for (const { spec, offset: from } of parameters) {
    const first = Math.max(offset, from);
    const last = Math.min(end, from + spec.count);
    if (first >= last) continue;
    const part = bytes.subarray(4 * (first - offset), 4 * (last - offset));
    native.tensorWrite(tensors.get(spec.name)!.id, first - from, part);
  }
}
