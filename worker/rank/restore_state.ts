import { openCheckpoint } from "../../checkpoint/load.js";
import {
  failuresText,
  type MemoryRead,
  type RestoredPart,
  readMemory,
  type SnapshotSource,
  type SourceFailure,
} from "../../checkpoint/read_memory.js";
import { readSnapshotHeader, type SnapshotHeader, SnapshotReader } from "../../checkpoint/snapshot.js";
import { STATE_KINDS, type StateMeta, type StateName, stateKey } from "../../checkpoint/state.js";
import { GokuError, READ_MEMORY, toGokuError } from "../../job/errors.js";
import { Layout } from "../../job/layout.js";
import type { ModelConfig } from "../../job/model_config.js";
import { parameterSpecs } from "../../job/parameters.js";
import { nothingSeen } from "../../job/spikes.js";
import type { PackSource } from "../data/pack_batch.js";
import type { Native } from "../engine/native.js";
import type { Groups } from "../parallel/groups.js";
import type { Trainer } from "../parallel/trainer.js";
import type { PeerAccess } from "../peer_channel.js";
import type { MemorySource, RestoreSource } from "../rank_messages.js";
import { unlessOver } from "../unless_over.js";
import { agreeMissing, missingKey } from "./agree_missing.js";
import { type LoadedBytes, type LoadOptions, loadCheckpoint } from "./load_checkpoint.js";
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
  /** Of the generation. */
  groups: Groups;
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
 * Brings the trainer to the state that the controller names; all ranks of the world call it with the same state. Throws SNAPSHOT_MISSING or CHECKPOINT_CORRUPT (then the
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
  const read = own === null ? await readFromMemory(options, from) : readWhole(own);
  const filled = await fillFrom(options, from, read);
  const doing = `Cannot restore ${own?.path ?? `step ${from.state.step} from memory`}`;
  const source = await openMatching(options.openData, filled.meta, doing);
  return adopt(options.trainer, source, filled.meta, { durable: false, parts: filled.parts });
}

function readWhole(own: SnapshotHeader): MemoryRead {
  const parts = [{ source: "own snapshot", bytes: own.bytes, insteadOf: "" }];
  return { meta: own.meta, parts, missing: [], failures: [] };
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

async function readFromMemory(options: RestoreOptions, from: MemorySource): Promise<MemoryRead> {
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
  return read;
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

/**
 * What memory lacks comes from the checkpoint of the same state, if there is one: whole kinds of a unit's shard, not the
 * chunk. All ranks take part as soon as one lacks something: what several lack is read once.
 */
async function fillFrom(
  options: RestoreOptions,
  { state, durable }: MemorySource,
  read: MemoryRead,
): Promise<{ meta: StateMeta; parts: RestoredPart[] }> {
  if (read.missing.length > 0 && durable === null) throw missing(state, read.failures);
  const { native, layout, rank, trainer, groups } = options;
  const lacking = new Set(read.missing.map(({ kind, unit }) => missingKey(kind, unit)));
  const units = trainer.shards.map(({ unit }) => unit.name);
  const wanting = agreeMissing(native, groups.world, { layout, rank, units, lacking });
  if (wanting === null) return { meta: read.meta!, parts: read.parts };
  const checkpoint = await unlessOver(options.signal, openCheckpoint(durable!.uri, durable!.state));
  const takes = (kind: (typeof STATE_KINDS)[number], unit: string) => lacking.has(missingKey(kind, unit));
  const { taken: bytes } = await load(options, { checkpoint, wanting, takes });
  const part = { source: checkpoint.uri, bytes, insteadOf: failuresText(read.failures) };
  return { meta: read.meta ?? checkpoint.meta, parts: [...read.parts, ...(lacking.size > 0 ? [part] : [])] };
}

function load(
  { native, layout, rank, trainer, groups, signal }: RestoreOptions,
  what: Pick<LoadOptions, "checkpoint" | "wanting" | "takes">,
): Promise<LoadedBytes> {
  return loadCheckpoint({ native, layout, rank, shards: trainer.shards, groups, signal, ...what });
}

/** Loads this rank's intervals, whatever layout wrote them; all ranks read a part each and share. */
async function fromCheckpoint(
  options: RestoreOptions,
  from: { uri: string; state: StateName },
): Promise<Restored> {
  const { model, trainer, openData } = options;
  const checkpoint = await unlessOver(options.signal, openCheckpoint(from.uri, from.state));
  checkpoint.requireModel(parameterSpecs(model));
  const source = await openMatching(openData, checkpoint.meta, `Cannot resume from ${checkpoint.uri}`);
  useFreeSlot(options);
  const { taken: bytes } = await load(options, { checkpoint, wanting: null, takes: () => true });
  return adopt(trainer, source, checkpoint.meta, {
    durable: true,
    parts: [{ source: checkpoint.uri, bytes, insteadOf: "" }],
  });
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
