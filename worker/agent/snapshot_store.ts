import { mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import path from "node:path";
import { readSnapshotHeader, verifySnapshot } from "../../checkpoint/snapshot.js";
import { GokuError } from "../../job/errors.js";
import { Layout } from "../../job/layout.js";
import type { HeldSnapshot, SnapshotSet } from "./snapshot_sets.js";

/** The copy that is whole stays while the next one comes in. */
export const REPLICA_SLOTS = 2;

/**
 * The snapshot sets of a node: folders `<job>/rank-<rank>.<layout>.<number>` of slot files in tmpfs, and
 * `<job>/replica-<rank>.<layout>` for copies of other nodes' snapshots. They outlive rank and agent processes; what is
 * whole is seen from the files alone.
 */
export class SnapshotStore {
  private readonly root: string;
  /** Living writers, by folder of the set. */
  private readonly owners = new Map<string, number>();

  constructor(root: string) {
    this.root = root;
    mkdirSync(root, { recursive: true });
  }

  /** All sets of a job with what they hold whole now. */
  sets(jobId: string): SnapshotSet[] {
    return names(this.folder(jobId)).flatMap((name) => {
      const match = /^(?:rank-(\d+)\.(\d+x\d+x\d+)\.\d+|replica-(\d+)\.(\d+x\d+x\d+))$/.exec(name);
      if (!match) return [];
      const folder = path.join(this.folder(jobId), name);
      const replica = match[3] !== undefined;
      const [rank, layout] = replica ? [match[3], match[4]!] : [match[1], match[2]!];
      const owner = this.owners.get(folder) ?? null;
      return [{ path: folder, rank: Number(rank), layout, replica, owner, held: heldIn(folder) }];
    });
  }

  /** The slot files for copies of a rank's snapshots; made where they are not. */
  replicaSlots(jobId: string, rank: number, layout: string): string[] {
    const folder = path.join(this.folder(jobId), `replica-${rank}.${layout}`);
    mkdirSync(folder, { recursive: true });
    return Array.from({ length: REPLICA_SLOTS }, (_, i) => path.join(folder, `slot-${i}`));
  }

  /** A new, empty set. */
  create(jobId: string, rank: number, layout: string): string {
    for (let number = 1; ; number++) {
      const folder = path.join(this.folder(jobId), `rank-${rank}.${layout}.${number}`);
      mkdirSync(this.folder(jobId), { recursive: true });
      try {
        mkdirSync(folder);
        return folder;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      }
    }
  }

  own(set: string, process: number): void {
    this.owners.set(set, process);
  }

  /** The process is gone, or has left the set for another one: `kept`. */
  disown(process: number, kept: string | null = null): void {
    for (const [set, owner] of this.owners) if (owner === process && set !== kept) this.owners.delete(set);
  }

  remove(set: string): void {
    this.owners.delete(set);
    rmSync(set, { recursive: true, force: true });
  }

  removeJob(jobId: string): void {
    for (const set of this.owners.keys())
      if (path.dirname(set) === this.folder(jobId)) this.owners.delete(set);
    rmSync(this.folder(jobId), { recursive: true, force: true });
  }

  /** Frees the memory of every job but this one. */
  removeOthers(jobId: string | null): void {
    for (const name of names(this.root)) if (name !== jobId) this.removeJob(name);
  }

  /** Reads every whole snapshot against its checksums and removes those that are damaged; says which. */
  async verify(jobId: string): Promise<string[]> {
    const damages: string[] = [];
    for (const { path: file } of this.sets(jobId).flatMap((set) => set.held)) {
      const damage = await verifySnapshot(file);
      if (damage === null) continue;
      damages.push(damage);
      rmSync(file, { force: true });
    }
    return damages;
  }

  private folder(jobId: string): string {
    if (!/^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/.test(jobId)) {
      throw new GokuError(
        "ARGUMENT_INVALID",
        `Cannot keep snapshots of job ${JSON.stringify(jobId)}: want an id of letters, digits and ._-`,
      );
    }
    return path.join(this.root, jobId);
  }
}

function heldIn(folder: string): HeldSnapshot[] {
  return names(folder).flatMap((name) => {
    const file = path.join(folder, name);
    const header = /^slot-\d+$/.test(name) ? readSnapshotHeader(file) : null;
    if (header === null) return [];
    const layout = new Layout(header.meta.layout).toString();
    const bytes = statSync(file, { throwIfNoEntry: false })?.size ?? 0;
    return [{ path: file, bytes, state: header.meta.state, rank: header.rank, layout }];
  });
}

function names(folder: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}
