import { loadNative } from "../../../worker/engine/load_native.js";
import { watchParent } from "../../../worker/rank/parent_watch.js";
import { STACK_FILE_VARIABLE } from "../../../worker/stack_file.js";

/** A process that is set up like a rank and then hangs: `javascript`, `native`, or goes on turning: `idle`. */
const stackFile = process.env[STACK_FILE_VARIABLE]!;
const native = loadNative();
watchParent(process.ppid, { stackFile, mark: "" });
native.stackDumpInstall(stackFile);

function turnsForEver(): never {
  for (let turns = 0; ; turns++) if (turns < 0) process.exit(1);
}

/** Matrix products without end: the thread is in the addon nearly always. */
function multipliesForEver(): never {
  const size = 1024;
  const [x, w, y] = [0, 1, 2].map(() => native.tensorAlloc(0, size * size));
  native.tensorFill(x!, 1);
  native.tensorFill(w!, 1);
  for (;;) native.linearForward(y!, x!, w!, 0, size, size, size, 0);
}

process.on("message", () => {}); // stays until its parent goes
process.send?.("here", () => {
  if (process.argv[2] === "javascript") turnsForEver();
  if (process.argv[2] === "native") multipliesForEver();
});
