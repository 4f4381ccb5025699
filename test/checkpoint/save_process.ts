import type { SaveHook } from "../../checkpoint/hooks.js";
import { commitCheckpoint, saveShard } from "../../checkpoint/save.js";
import { readSnapshotHeader } from "../../checkpoint/snapshot.js";
import { Layout } from "../../job/layout.js";
import { AWKWARD } from "./fixtures.js";

/** Saves and commits as agents do, and dies by SIGKILL at the given point: `uri layout point writer slot...`. */
const [uri, layoutText, fatalPoint, fatalWriter, ...slots] = process.argv.slice(2) as [
  string,
  string,
  string,
  string,
  ...string[],
];
const layout = Layout.parse(layoutText);
const hook: SaveHook = (point, { writer }) => {
  if (point === fatalPoint && (point !== "save.write" || writer === Number(fatalWriter)))
    process.kill(process.pid, "SIGKILL");
};
const meta = readSnapshotHeader(slots[0]!)!.meta;
const shared = { uri, layout, units: AWKWARD.units, generation: meta.state.generation, hook };
for (const [rank, slotPath] of slots.entries()) await saveShard({ ...shared, slotPath, rank });
await commitCheckpoint({ ...shared, meta, waitMs: 0 });
