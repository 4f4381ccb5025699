import { fork } from "node:child_process";
import { watchParent } from "../../../worker/rank/parent_watch.js";

/** Grandparent -> this as "agent" -> this as "rank", whose main thread never turns again. */
if (process.argv[2] === "agent") {
  const rank = fork(import.meta.filename, ["rank"], { stdio: "ignore" });
  rank.once("message", () => process.send?.(rank.pid));
} else {
  watchParent(process.ppid, { stackFile: null, mark: "" });
  process.send?.("blocks", () => {
    for (;;) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  });
}
