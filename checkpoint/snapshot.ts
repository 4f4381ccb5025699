/** Snapshots: a rank's training state in its node's memory. */

export { SnapshotCopy } from "./snapshot_copy.js";
export {
  beginSnapshot,
  parseSnapshotHead,
  readSnapshotHead,
  readSnapshotHeader,
  type SnapshotEntry,
  type SnapshotExtent,
  type SnapshotHeader,
  type SnapshotLayout,
  sameSnapshot,
  sealSnapshot,
  snapshotChunks,
  snapshotLayout,
} from "./snapshot_page.js";
export { SnapshotReader, verifySnapshot } from "./snapshot_reader.js";
