import { existsSync, mkdirSync, rmSync, statSync } from "node:fs";
import path from "node:path";
import { chunkCount } from "../../checkpoint/digest.js";
import {
  beginSnapshot,
  readSnapshotHeader,
  type SnapshotLayout,
  sealSnapshot,
} from "../../checkpoint/snapshot.js";
import { STATE_KINDS, type StateMeta, type StateName } from "../../checkpoint/state.js";
import { toGokuError } from "../../job/errors.js";
import type { Native } from "../engine/native.js";
import { Arena } from "../engine/tensor.js";
import { sumState } from "../parallel/sum_state.js";
import type { StateTarget, StateTensors } from "../parallel/trainer.js";
import { SLOT_COUNT } from "./slots.js";

/**
 * The slot files of one rank, mapped: the memory of its training state, or of its copies. Files of an earlier process of this rank are
 * taken over with what they hold. All memory is claimed when the set is opened, so that a full tmpfs is an error then and
 * not a fault in the middle of a step.
 */
export class SnapshotPages {
  readonly folder: string;
  private readonly native: Native;
  private readonly layout: SnapshotLayout;
  private readonly arena: Arena;
  private readonly pages: Uint8Array[] = [];
  /** Of each slot: its tensors, and the checksums of what was written last, also in one run. */
  private readonly targets: (StateTarget & { all: Uint32Array })[] = [];

  /** Throws NATIVE_IO when the memory cannot be had. */
  constructor(native: Native, folder: string, layout: SnapshotLayout, slots = SLOT_COUNT) {
    this.native = native;
    this.folder = folder;
    this.layout = layout;
    this.arena = new Arena(native);
    mkdirSync(folder, { recursive: true });
    // A job that no longer copies its states has one slot less.
    for (let i = slots; existsSync(this.slotPath(i)); i++) rmSync(this.slotPath(i));
    try {
      for (let i = 0; i < slots; i++) this.pages.push(this.map(this.slotPath(i)));
      for (const page of this.pages) this.targets.push(this.targetIn(page));
    } catch (error) {
      this.close();
      throw toGokuError(error, "NATIVE_IO");
    }
  }

  /** Of one slot's file. */
  get slotBytes(): number {
    return this.layout.bytes;
  }

  slotPath(index: number): string {
    return path.join(this.folder, `slot-${index}`);
  }

  /** The slot of this set with that file; null: it is another's. */
  indexOf(file: string): number | null {
    const index = this.pages.findIndex((_, i) => this.slotPath(i) === file);
    return index < 0 ? null : index;
  }

  /** What each slot holds whole. */
  states(): (StateName | null)[] {
    return this.pages.map((_, i) => readSnapshotHeader(this.slotPath(i))?.meta.state ?? null);
  }

  /** The state's tensors in a slot, unit by unit. */
  tensors(index: number): readonly StateTensors[] {
    return this.targets[index]!.tensors;
  }

  /** Makes a slot ready to be written: from here to `seal` it holds nothing whole. `checksums`: whether it is to be sealed. */
  begin(index: number, checksums: boolean): StateTarget {
    beginSnapshot(this.pages[index]!);
    const target = this.targets[index]!;
    return checksums ? target : { tensors: target.tensors, checksums: target.tensors.map(() => NONE) };
  }

  /** Declares a slot whole whose checksums were made with its content, or by `sum`. */
  seal(index: number, content: { meta: StateMeta; rank: number }): void {
    const { checksums } = this.targets[index]!;
    sealSnapshot(this.pages[index]!, {
      ...content,
      entries: this.layout.entries,
      checksums: inFileOrder(checksums),
    });
  }

  /** Room for the checksums of a slot, unit by unit and in each kind by kind: for who copies a state there. */
  checksums(index: number): Uint32Array {
    return this.targets[index]!.all;
  }

  /** Makes the checksums of a slot from what lies there, or in these tensors; in the order of the file. */
  sum(index: number, state = this.tensors(index)): Uint32Array {
    const { checksums } = this.targets[index]!;
    for (const [i, unit] of state.entries()) sumState(this.native, unit, checksums[i]!);
    return inFileOrder(checksums);
  }

  /** Chunks of a sealed slot, or of these tensors, that do not have the slot's checksums. Reads all of them. */
  damaged(index: number, state = this.tensors(index)): number {
    const { checksums } = this.targets[index]!;
    return state.reduce((count, unit, i) => {
      const found = new Uint32Array(checksums[i]!.length);
      sumState(this.native, unit, found);
      return count + found.filter((sum, chunk) => sum !== checksums[i]![chunk]).length;
    }, 0);
  }

  /** The slot with that file is found damaged: nobody takes it for whole any more. */
  spoil(file: string): void {
    beginSnapshot(this.pages[this.indexOf(file)!]!);
  }

  /** Unmaps; the files stay. */
  close(): void {
    this.arena.freeAll();
    for (const page of this.pages.splice(0)) this.native.pageUnmap(page);
  }

  private map(file: string): Uint8Array {
    // A file of another size cannot hold anything for us. Any other trouble may pass, and the file may be the only copy.
    const { size } = statSync(file, { throwIfNoEntry: false }) ?? { size: this.layout.bytes };
    if (size !== this.layout.bytes) rmSync(file);
    return this.native.pageMap(file, this.layout.bytes);
  }

  /** Entries of the layout come kind by kind, unit by unit. */
  private targetIn(page: Uint8Array): StateTarget & { all: Uint32Array } {
    const { entries } = this.layout;
    const unitCount = entries.length / STATE_KINDS.length;
    const tensorOf = (kind: number, unit: number) => {
      const { byteOffset, count } = entries[kind * unitCount + unit]!;
      return this.arena.ofPage(page, byteOffset, "f32", count);
    };
    const units = Array.from({ length: unitCount }, (_, unit) => unit);
    const ends: number[] = [];
    for (const unit of units)
      ends.push((ends.at(-1) ?? 0) + STATE_KINDS.length * chunkCount(4 * entries[unit]!.count));
    const all = new Uint32Array(ends.at(-1) ?? 0);
    return {
      all,
      tensors: units.map((unit) => ({
        model: tensorOf(STATE_KINDS.indexOf("model"), unit),
        ema: tensorOf(STATE_KINDS.indexOf("ema"), unit),
        adam_m: tensorOf(STATE_KINDS.indexOf("adam_m"), unit),
        adam_v: tensorOf(STATE_KINDS.indexOf("adam_v"), unit),
      })),
      checksums: ends.map((end, unit) => all.subarray(ends[unit - 1] ?? 0, end)),
    };
  }
}

const NONE = new Uint32Array(0);

/** From unit by unit, kind by kind to kind by kind, unit by unit. */
function inFileOrder(checksums: readonly Uint32Array[]): Uint32Array {
  const parts = STATE_KINDS.flatMap((_, kind) =>
    checksums.map((unit) => {
      const count = unit.length / STATE_KINDS.length;
      return unit.subarray(kind * count, (kind + 1) * count);
    }),
  );
  const all = new Uint32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
