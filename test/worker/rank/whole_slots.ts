import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { readSnapshotHeader } from "../../../checkpoint/snapshot.js";

/** Whole slots of a set: step of the state, and a digest of its bytes and of Adam's step. */
export function wholeSlots(set: string): Map<number, string> {
  const found = new Map<number, string>();
  for (const name of readdirSync(set)) {
    const file = path.join(set, name);
    const header = readSnapshotHeader(file);
    if (header === null) continue;
    const bytes = readFileSync(file);
    const hash = createHash("sha256");
    for (const { byteOffset, bytes: length } of header.entries)
      hash.update(bytes.subarray(byteOffset, byteOffset + length));
    found.set(header.meta.state.step, `${hash.digest("hex")} ${header.meta.adamStep}`);
  }
  return found;
}
