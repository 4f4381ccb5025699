import { closeSync, openSync, readSync, writeSync } from "node:fs";
import path from "node:path";
import { readSnapshotHeader, snapshotChunks } from "../../../checkpoint/snapshot.js";
import { heldBy } from "./copy_left.js";

/** The slots of a rank on a node, or of a copy of it. */
export interface SlotsOf {
  folder: string;
  jobId: string;
  rank: number;
  replica: boolean;
}

/** File of the newest state in them; null: they hold none. */
export function newestHeld({ folder, jobId, rank, replica }: SlotsOf): string | null {
  const isReplica = (file: string) => path.basename(path.dirname(file)).startsWith("replica-");
  const held = heldBy(folder, jobId).filter((one) => one.rank === rank && isReplica(one.path) === replica);
  return held.sort((a, b) => b.state.step - a.state.step)[0]?.path ?? null;
}

/** Flips one bit in the data of the newest state in them. */
export function flipSnapshot(slots: SlotsOf): void {
  const newest = newestHeld(slots);
  if (newest === null) throw new Error(`${slots.folder} holds nothing of rank ${slots.rank} to be damaged`);
  const extent = snapshotChunks(readSnapshotHeader(newest)!)[0]!;
  const at = extent.byteOffset + (extent.bytes >> 1);
  const file = openSync(newest, "r+");
  const byte = new Uint8Array(1);
  readSync(file, byte, 0, 1, at);
  byte[0]! ^= 1;
  writeSync(file, byte, 0, 1, at);
  closeSync(file);
}
