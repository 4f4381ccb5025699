import { mkdirSync, rmSync, statSync } from "node:fs";
import path from "node:path";
import {
  beginSnapshot,
  readSnapshotHeader,
  type SnapshotLayout,
  sealSnapshot,
} from "../../checkpoint/snapshot.js";
import type { StateKind, StateMeta, StateName } from "../../checkpoint/state.js";
import { toGokuError } from "../../job/errors.js";
import type { Native } from "../engine/native.js";
import { failpoint } from "../failpoints.js";
import type { ShardUnit } from "../parallel/trainer.js";
import { SLOT_COUNT } from "./slots.js";

/** What a snapshot holds of a unit: the tensors of the state, by their kind. */
export type StateShard = Pick<ShardUnit, "unit" | StateKind>;

/**
 * The slot files of one rank, mapped. Files of an earlier process of this rank are taken over with what they hold.
 * All memory is claimed when the set is opened, so that a full tmpfs is an error then and not a fault while copying.
 */
export class SnapshotPages {
  readonly folder: string;
  private readonly native: Native;
  private readonly layout: SnapshotLayout;
  private readonly pages: Uint8Array[] = [];

  /** Throws NATIVE_IO when the memory cannot be had. */
  constructor(native: Native, folder: string, layout: SnapshotLayout) {
    this.native = native;
    this.folder = folder;
    this.layout = layout;
    mkdirSync(folder, { recursive: true });
    try {
      for (let i = 0; i < SLOT_COUNT; i++) this.pages.push(this.map(this.slotPath(i)));
    } catch (error) {
      this.close();
      throw toGokuError(error, "NATIVE_IO");
    }
  }

  slotPath(index: number): string {
    return path.join(this.folder, `slot-${index}`);
  }

  /** What each slot holds whole. */
  states(): (StateName | null)[] {
    return this.pages.map((_, i) => readSnapshotHeader(this.slotPath(i))?.meta.state ?? null);
  }

  /** Copies the shards into a slot and seals it. Until it returns, the slot holds nothing whole. */
  write(index: number, shards: readonly StateShard[], content: { meta: StateMeta; rank: number }): void {
    const page = this.pages[index]!;
    beginSnapshot(page);
    for (const [i, entry] of this.layout.entries.entries()) {
      if (i === this.layout.entries.length >> 1) failpoint("snapshot.copy");
      if (entry.count === 0) continue;
      const tensor = shardOf(shards, entry.unit)[entry.kind];
      this.native.pageFromTensor(page, entry.byteOffset, tensor.id, 0, entry.count);
    }
    sealSnapshot(page, content);
  }

  /** Copies a whole snapshot into the shards: a slot of this set, or another file of the same layout and rank. */
  read(file: string, shards: readonly StateShard[]): void {
    const own = this.pages[this.pages.findIndex((_, i) => this.slotPath(i) === file)];
    const page = own ?? this.native.pageMap(file, this.layout.bytes);
    try {
      for (const entry of this.layout.entries) {
        if (entry.count === 0) continue;
        const tensor = shardOf(shards, entry.unit)[entry.kind];
        this.native.pageToTensor(tensor.id, 0, page, entry.byteOffset, entry.count);
      }
    } finally {
      if (!own) this.native.pageUnmap(page);
    }
  }

  /** The slot is found damaged: nobody takes it for whole any more. */
  spoil(file: string): void {
    const page = this.pages[this.pages.findIndex((_, i) => this.slotPath(i) === file)];
    if (page) beginSnapshot(page);
    else rmSync(file, { force: true });
  }

  /** Unmaps; the files stay. */
  close(): void {
    for (const page of this.pages.splice(0)) this.native.pageUnmap(page);
  }

  private map(file: string): Uint8Array {
    // A file of another size cannot hold anything for us. Any other trouble may pass, and the file may be the only copy.
    const { size } = statSync(file, { throwIfNoEntry: false }) ?? { size: this.layout.bytes };
    if (size !== this.layout.bytes) rmSync(file);
    return this.native.pageMap(file, this.layout.bytes);
  }
}

function shardOf(shards: readonly StateShard[], unit: string): StateShard {
  return shards.find((shard) => shard.unit.name === unit)!;
}
