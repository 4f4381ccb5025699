import { writeFileSync } from "node:fs";
import { toGokuError } from "../../job/errors.js";
import { loadNative } from "../engine/load_native.js";
import type { FromPreview, ToPreview } from "../preview_messages.js";
import { watchParent } from "../rank/parent_watch.js";
import { drawPreview } from "./draw_preview.js";

/**
 * Entry of the process that draws one preview beside the training: on one thread, at the lowest priority (its agent starts
 * it so), first to go where memory runs out. It ends with its agent, and whenever that likes.
 */
function main(): void {
  // Raising it needs no right. Elsewhere than on Linux there is no such file.
  try {
    writeFileSync("/proc/self/oom_score_adj", "1000");
  } catch {}
  watchParent(process.ppid, { stackFile: null, mark: "" });
  process.on("disconnect", () => process.exit(0));
  process.on("SIGINT", () => {});
  process.on("SIGTERM", () => {});
  process.once("message", (order: ToPreview) => void draw(order));
  send({ kind: "booted" });
}

async function draw(order: ToPreview): Promise<void> {
  try {
    const native = loadNative();
    native.threadsSet(1);
    last(await drawPreview(order, native, send));
  } catch (thrown) {
    const { code, message } = toGokuError(thrown);
    if (code === "INTERNAL") process.stderr.write(`${(thrown as Error).stack}\n`);
    last({ kind: "failed", code, message });
  }
}

function send(message: FromPreview): void {
  process.send?.(message, undefined, undefined, () => {});
}

/** Ends when it is sent. */
function last(message: FromPreview): void {
  process.send?.(message, undefined, undefined, () => process.exit(0));
}

main();
