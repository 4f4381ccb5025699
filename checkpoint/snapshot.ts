/** Snapshots: a rank's training state in its node's memory. */
export {
  beginSnapshot,
  readSnapshotHeader,
  type SnapshotEntry,
  type SnapshotExtent,
  type SnapshotHeader,
  type SnapshotLayout,
  sealSnapshot,
  snapshotLayout,
} from "./snapshot_page.js";
export { SnapshotReader, verifySnapshot } from "./snapshot_reader.js";
