import type { Checkpoint } from "../../checkpoint/checkpoint.js";
import { openCheckpoint } from "../../checkpoint/load.js";
import { mapLimit, READS_AT_ONCE } from "../../checkpoint/map_limit.js";
import {
  failuresText,
  type MemoryRead,
  type RestoredPart,
  readMemory,
  type SnapshotSource,
  type SourceFailure,
} from "../../checkpoint/read_memory.js";
import { readSnapshotHeader, type SnapshotHeader, SnapshotReader } from "../../checkpoint/snapshot.js";
import {
  STATE_KINDS,
  type StateKind,
  type StateMeta,
  type StateName,
  stateKey,
} from "../../checkpoint/state.js";
import { GokuError, READ_MEMORY, toGokuError } from "../../job/errors.js";
import { Layout } from "../../job/layout.js";
import type { ModelConfig } from "../../job/model_config.js";
import { parameterSpecs } from "../../job/parameters.js";
import { nothingSeen } from "../../job/spikes.js";
import type { PackSource } from "../data/pack_batch.js";
import type { CommId, Native } from "../engine/native.js";
import { type Tensor, writeFloats } from "../engine/tensor.js";
import type { Trainer } from "../parallel/trainer.js";
import type { PeerAccess } from "../peer_channel.js";
import type { MemorySource, RestoreSource } from "../rank_messages.js";
import { remoteSnapshot } from "./remote_snapshot.js";
import type { SlotBook } from "./slots.js";
import type { SnapshotPages } from "./snapshot_pages.js";
import type { StateMemory } from "./state_memory.js";
import type { RunState } from "./train_loop.js";

export interface RestoreOptions {
  native: Native;
  model: ModelConfig;
  layout: Layout;
  rank: number;
  trainer: Trainer;
  /** `digest`: of the data that the state was trained on; null: none yet. */
  openData: (digest: string | null) => Promise<PackSource>;
  pages: SnapshotPages;
  memory: StateMemory;
  book: SlotBook;
  jobId: string;
  /** Shown to other nodes of the job. */
  access: PeerAccess;
  /** Some rank of this generation on a node; null: there is none. */
  peerOf: (nodeId: string) => number | null;
  /** The generation is over. */
  signal: AbortSignal;
  /** Of the ranks that hold the same shard; null: there is no other. */
  replica: CommId | null;
}

export interface Restored {
  run: RunState;
  /** The data that the state was trained on. */
  source: PackSource;
  /** Where its bytes came from. */
  parts: RestoredPart[];
}

/** The state before the first step, whose values follow from the job's seed alone. */
export const INITIAL_STATE: StateName = { generation: "0", step: 0 };

/**
 * Brings the trainer to the state that the controller names. Throws SNAPSHOT_MISSING or CHECKPOINT_CORRUPT (then the
 * next source is tried), NOT_FOUND, CHECKPOINT_MISMATCH, DATA_CHANGED, DATA_EMPTY.
 */
export async function restoreState(options: RestoreOptions, from: RestoreSource): Promise<Restored> {
  if (from.kind === "initial") {
    const source = await options.openData(null);
    useFreeSlot(options);
    options.trainer.initialise();
    const history = { leftOut: [], numbers: nothingSeen() };
    return {
      run: { state: INITIAL_STATE, parent: INITIAL_STATE, durable: false, ...history },
      source,
      parts: [],
    };
  }
  return from.kind === "snapshot" ? fromMemory(options, from) : fromCheckpoint(options, from);
}

/** The state is to be written into a slot that nobody needs. */
function useFreeSlot({ trainer, memory, book }: RestoreOptions): void {
  const { index } = book.take();
  trainer.use(memory.begin(index, false).tensors);
}

/** COMM_PEER_DIED where a node could not be asked: what it holds may be sound. Else the state cannot be had from memory. */
function missing(state: StateName, failures: readonly SourceFailure[]): GokuError {
  const doing = `Cannot restore step ${state.step} of generation ${state.generation} from memory`;
  const why = `${doing}: ${failuresText(failures)}`;
  const silent = failures.find(({ error }) => error.code === "COMM_PEER_DIED");
  if (silent)
    return new GokuError("COMM_PEER_DIED", why, { peer: silent.error.peer, operation: READ_MEMORY });
  return new GokuError("SNAPSHOT_MISSING", `${why}; take the next source`);
}

/**
 * A whole slot of this rank's own set is used where it lies. Else the state is read into a free slot, chunk by chunk from
 * whoever holds it undamaged: this node's snapshots, other nodes', and the checkpoint of the same state.
 */
async function fromMemory(options: RestoreOptions, from: MemorySource): Promise<Restored> {
  const own = adoptOwn(options, from);
  if (own === null) return readFromMemory(options, from);
  const source = await openMatching(options.openData, own.meta, `Cannot restore ${own.path}`);
  return adopt(options.trainer, source, own.meta, {
    durable: false,
    parts: [{ source: "own snapshot", bytes: own.bytes, insteadOf: "" }],
  });
}

/** Null: the rank's set has no such slot, or a damaged one. */
function adoptOwn(
  { trainer, pages, memory, book, layout, rank }: RestoreOptions,
  from: MemorySource,
): SnapshotHeader | null {
  const path = from.files.find((file) => file.rank === rank && pages.indexOf(file.path) !== null)?.path;
  const header = path === undefined ? null : readSnapshotHeader(path);
  if (header === null || !holds(header, from.state, layout)) return null;
  const index = pages.indexOf(header.path)!;
  const checksums = memory.load(index);
  if (checksums.some((checksum, i) => checksum !== header.checksums[i])) return null;
  book.adopt(book.slots[index]!);
  trainer.use(memory.tensors(index));
  return header;
}

function holds({ meta }: SnapshotHeader, state: StateName, layout: Layout): boolean {
  return stateKey(meta.state) === stateKey(state) && new Layout(meta.layout).toString() === layout.toString();
}

async function readFromMemory(options: RestoreOptions, from: MemorySource): Promise<Restored> {
  const { native, layout, rank, trainer, book } = options;
  const source = new Layout(from.layout);
  const shards = new Map(trainer.shards.map((shard) => [shard.unit.name, shard]));
  book.hold(from.state); // what is sound of a damaged slot is read from it
  useFreeSlot(options);
  const silent = new Map<string, GokuError>();
  const read = await readMemory({
    units: trainer.shards.map(({ unit }) => unit),
    state: from.state,
    from: source,
    to: layout,
    rank,
    kinds: STATE_KINDS,
    sources: (shard) => sourcesOf(options, from, { shard, layout: source, silent }),
    write: ({ kind, unit, offset, bytes }) => {
      native.tensorWrite(shards.get(unit)![kind].id, offset, bytes);
    },
  });
  book.letGo(from.state);
  if (options.signal.aborted) throw new GokuError("COMM_ABORTED", "Cannot restore: the generation is over");
  const filled = await fillFrom(options, from, read);
  const doing = `Cannot restore step ${from.state.step} from memory`;
  const data = await openMatching(options.openData, filled.meta, doing);
  return adopt(trainer, data, filled.meta, { durable: false, parts: filled.parts });
}

/** Those of this node first. A node that did not answer once, `silent`, is asked no more. */
function sourcesOf(
  { jobId, access, pages, book, peerOf, signal }: RestoreOptions,
  { state, files, places }: MemorySource,
  of: { shard: number; layout: Layout; silent: Map<string, GokuError> },
): SnapshotSource[] {
  const { shard, layout, silent } = of;
  const same = ({ rank }: { rank: number }) => rank % layout.shardGroupSize === shard;
  const giveUp = (path: string) => {
    if (pages.indexOf(path) === null) return; // another process may work with it
    pages.spoil(path);
    book.reread(pages.states());
  };
  return [
    ...files.filter(same).map(({ rank, path }) => ({
      name: `rank ${rank} on this node`,
      open: () => SnapshotReader.open(path),
      damaged: () => giveUp(path),
    })),
    ...places
      .filter(same)
      .map((place) =>
        answering(
          silent,
          place.nodeId,
          remoteSnapshot({ jobId, state, layout, peer: peerOf(place.nodeId), access, signal }, place),
        ),
      ),
  ];
}

/** Waits once for a node that does not answer, not again for each shard. */
function answering(silent: Map<string, GokuError>, nodeId: string, source: SnapshotSource): SnapshotSource {
  const open = async () => {
    const before = silent.get(nodeId);
    if (before) throw before;
    return source.open().catch((thrown: unknown) => {
      const error = toGokuError(thrown);
      if (error.code === "COMM_PEER_DIED") silent.set(nodeId, error);
      throw error;
    });
  };
  return { ...source, open };
}

/** What memory lacks comes from the checkpoint of the same state, if there is one; whole shards of a unit, not the chunk. */
async function fillFrom(
  options: RestoreOptions,
  { state, durable }: MemorySource,
  read: MemoryRead,
): Promise<{ meta: StateMeta; parts: RestoredPart[] }> {
  if (read.missing.length === 0) return { meta: read.meta!, parts: read.parts };
  if (durable === null) throw missing(state, read.failures);
  const checkpoint = await openCheckpoint(durable.uri, durable.state);
  const lacking = new Set(read.missing.map(({ kind, unit }) => `${kind}/${unit}`));
  const part = { source: checkpoint.uri, bytes: 0, insteadOf: failuresText(read.failures) };
  const load = shardLoader(options, checkpoint);
  for (const one of everyShard(options.trainer)) {
    if (lacking.has(`${one.kind}/${one.shard.unit.name}`)) part.bytes += await load(one);
  }
  return { meta: read.meta ?? checkpoint.meta, parts: [...read.parts, part] };
}

/** One kind of one unit's shard. */
interface KindOfShard {
  kind: StateKind;
  shard: Trainer["shards"][number];
}

function everyShard(trainer: Trainer): KindOfShard[] {
  return trainer.shards.flatMap((shard) => STATE_KINDS.map((kind) => ({ kind, shard })));
}

/** Reads from the checkpoint what this rank holds of a shard; returns the bytes. */
function shardLoader(
  { native, layout, rank, trainer }: RestoreOptions,
  checkpoint: Checkpoint,
): (one: KindOfShard) => Promise<number> {
  const units = trainer.shards.map(({ unit }) => unit); // one list: the checkpoint checks each that it is given
  return async ({ kind, shard }) => {
    const values = await checkpoint.readRank(units, layout, rank, kind, shard.unit.name);
    writeFloats(native, shard[kind], 0, values);
    return values.byteLength;
  };
}

/** Reads this rank's intervals, whatever layout wrote them; ranks that hold the same ones read a part each and share. */
async function fromCheckpoint(
  options: RestoreOptions,
  from: { uri: string; state: StateName },
): Promise<Restored> {
  const { model, trainer, openData } = options;
  const checkpoint = await openCheckpoint(from.uri, from.state);
  checkpoint.requireModel(parameterSpecs(model));
  const source = await openMatching(openData, checkpoint.meta, `Cannot resume from ${checkpoint.uri}`);
  useFreeSlot(options);
  const bytes = await readCheckpoint(options, checkpoint);
  return adopt(trainer, source, checkpoint.meta, {
    durable: true,
    parts: [{ source: checkpoint.uri, bytes, insteadOf: "" }],
  });
}

/** Every shard is read from storage by one of the ranks that hold it, which hands it to the others. Returns the bytes read here. */
async function readCheckpoint(options: RestoreOptions, checkpoint: Checkpoint): Promise<number> {
  const { native, layout, rank, trainer, replica } = options;
  const { replica: index } = layout.coordinates(rank);
  const shards = everyShard(trainer).filter(({ kind, shard }) => shard[kind].count > 0);
  const readers = dealReads(
    shards.map(({ kind, shard }) => shard[kind].count),
    layout.dpReplicate,
  );
  const own = shards.filter((_, i) => readers[i] === index);
  const sizes = await mapLimit(own, READS_AT_ONCE, shardLoader(options, checkpoint));
  if (replica !== null) {
    for (const [i, { kind, shard }] of shards.entries()) {
      handOut(native, replica, shard[kind], readers[i]!);
    }
  }
  return sizes.reduce((sum, bytes) => sum + bytes, 0);
}

/** Which of `readers` reads each of the shards, so that all read about as much: the largest first, to whoever has least. Pure. */
export function dealReads(counts: readonly number[], readers: number): number[] {
  const loads = new Array<number>(readers).fill(0);
  const dealt = new Array<number>(counts.length).fill(0);
  const largestFirst = [...counts.keys()].sort((a, b) => counts[b]! - counts[a]! || a - b);
  for (const i of largestFirst) {
    const least = loads.indexOf(Math.min(...loads));
    loads[least]! += counts[i]!;
    dealt[i] = least;
  }
  return dealt;
}

function handOut(native: Native, group: CommId, shard: Tensor, reader: number): void {
  try {
    native.commWait(native.broadcastStart(group, shard.id, reader));
  } catch (error) {
    throw toGokuError(error);
  }
}

function adopt(
  trainer: Trainer,
  source: PackSource,
  meta: StateMeta,
  { durable, parts }: { durable: boolean; parts: RestoredPart[] },
): Restored {
  trainer.adamStep = meta.adamStep;
  trainer.restored();
  source.restoreExclusions(meta.exclusions);
  const { state, parent, leftOut } = meta;
  // the loop adds to what it has seen
  const run = { state, parent, durable, leftOut, numbers: structuredClone(meta.numbers) };
  return { run, source, parts };
}

/** The data that the state names; DATA_CHANGED when they cannot be had any more. */
async function openMatching(
  openData: RestoreOptions["openData"],
  meta: StateMeta,
  doing: string,
): Promise<PackSource> {
  const source = await openData(meta.dataDigest);
  if (meta.dataDigest === source.digest) return source;
  throw new GokuError(
    "DATA_CHANGED",
    `${doing}: it was trained on data ${meta.dataDigest.slice(0, 12)}, found ${source.digest.slice(0, 12)}; bring that data set back, or start a new job`,
  );
}
