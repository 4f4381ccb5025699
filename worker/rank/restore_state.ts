import { openCheckpoint } from "../../checkpoint/load.js";
import { readSnapshotHeader, type SnapshotHeader } from "../../checkpoint/snapshot.js";
import { STATE_KINDS, type StateMeta, type StateName, stateKey } from "../../checkpoint/state.js";
import { GokuError } from "../../job/errors.js";
import type { Layout } from "../../job/layout.js";
import type { ModelConfig } from "../../job/model_config.js";
import { parameterSpecs } from "../../job/parameters.js";
import type { PackSource } from "../data/pack_batch.js";
import type { Native } from "../engine/native.js";
import { writeFloats } from "../engine/tensor.js";
import type { Trainer } from "../parallel/trainer.js";
import type { RestoreSource } from "../rank_messages.js";
import type { SlotBook } from "./slots.js";
import type { SnapshotPages } from "./snapshot_pages.js";
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
  book: SlotBook;
}

export interface Restored {
  run: RunState;
  /** The data that the state was trained on. */
  source: PackSource;
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
    return { run: { state: INITIAL_STATE, parent: INITIAL_STATE, durable: false }, source };
  }
  return from.kind === "snapshot" ? fromSnapshot(options, from) : fromCheckpoint(options, from);
}

/** The state is to be written into a slot that nobody needs. */
function useFreeSlot({ trainer, pages, book }: RestoreOptions): void {
  const { index } = book.take();
  trainer.use(pages.begin(index, false).tensors);
}

/** A slot of this rank's own set is used where it lies; one of another set is copied into a free slot. */
async function fromSnapshot(
  { trainer, pages, book, openData }: RestoreOptions,
  from: { state: StateName; path: string },
): Promise<Restored> {
  const { state, path } = from;
  const doing = `Cannot restore step ${state.step} of generation ${state.generation} from memory`;
  const header = readSnapshotHeader(path);
  if (header === null || stateKey(header.meta.state) !== stateKey(state)) {
    const found = header ? `step ${header.meta.state.step}` : "nothing whole";
    throw new GokuError("SNAPSHOT_MISSING", `${doing}: ${path} holds ${found}, take the next source`);
  }
  const own = pages.indexOf(path);
  const index = own ?? book.take().index;
  if (own !== null) book.adopt(book.slots[own]!);
  else pages.copyIn(path, index);
  requireUnharmed(pages, index, header, doing);
  const source = await openMatching(openData, header.meta, doing);
  trainer.use(pages.tensors(index));
  return adopt(trainer, source, header.meta, { parent: header.meta.parent, durable: false });
}

/** SNAPSHOT_MISSING where the slot holds other bytes than were sealed in the snapshot; that is then given up. */
function requireUnharmed(pages: SnapshotPages, index: number, sealed: SnapshotHeader, doing: string): void {
  const checksums = pages.sum(index);
  const bad = checksums.findIndex((checksum, i) => checksum !== sealed.checksums[i]);
  if (bad < 0 && checksums.length === sealed.checksums.length) return;
  pages.spoil(sealed.path);
  throw new GokuError(
    "SNAPSHOT_MISSING",
    `${doing}: checksum ${bad} of ${sealed.checksums.length} of ${sealed.path} differs, take the next source`,
  );
}

/** Reads this rank's intervals, whatever layout wrote them. */
async function fromCheckpoint(
  options: RestoreOptions,
  from: { uri: string; state: StateName },
): Promise<Restored> {
  const { native, model, layout, rank, trainer, openData } = options;
  const checkpoint = await openCheckpoint(from.uri, from.state);
  const units = trainer.shards.map((shard) => shard.unit);
  checkpoint.requireModel(parameterSpecs(model));
  const source = await openMatching(openData, checkpoint.meta, `Cannot resume from ${checkpoint.uri}`);
  useFreeSlot(options);
  for (const shard of trainer.shards) {
    for (const kind of STATE_KINDS) {
      const values = await checkpoint.readRank(units, layout, rank, kind, shard.unit.name);
      writeFloats(native, shard[kind], 0, values);
    }
  }
  return adopt(trainer, source, checkpoint.meta, { parent: checkpoint.meta.parent, durable: true });
}

function adopt(
  trainer: Trainer,
  source: PackSource,
  meta: StateMeta,
  rest: { parent: StateName | null; durable: boolean },
): Restored {
  trainer.adamStep = meta.adamStep;
  trainer.restored();
  source.restoreExclusions(meta.exclusions);
  return { run: { state: meta.state, ...rest }, source };
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
