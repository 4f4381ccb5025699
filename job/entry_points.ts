import { existsSync } from "node:fs";
import path from "node:path";

/** Sources of what is started as a process or thread of its own; each is bundled into one file, see decision 030. */
export const ENTRY_POINTS = {
  gokuctl: "cli/main",
  rank: "worker/rank/main",
  checks: "worker/checks/main",
  preview: "worker/preview/main",
  devices: "worker/device/main",
  prefetch_thread: "worker/data/prefetch_thread",
  parent_watch_thread: "worker/rank/parent_watch_thread",
  digest_thread: "checkpoint/digest_thread_entry",
} as const;

/** Below the product's folder. */
export const PROGRAMS_FOLDER = "dist/programs";

/** File to start one with. */
export function entryPoint(name: keyof typeof ENTRY_POINTS): string {
  return path.join(productFolder(), PROGRAMS_FOLDER, `${name}.js`);
}

/** The folder above this module that holds package.json. Throws where there is none: something was copied in part. */
export function productFolder(): string {
  for (let folder = import.meta.dirname; ; folder = path.dirname(folder)) {
    if (existsSync(path.join(folder, "package.json"))) return folder;
    if (folder === path.dirname(folder)) throw new Error(`no package.json above ${import.meta.dirname}`);
  }
}
