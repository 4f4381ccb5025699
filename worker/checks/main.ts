import type { FromChecker, ToChecker } from "../check_messages.js";
import { loadNative } from "../engine/load_native.js";
import { checkPair } from "./pair_collective.js";
import { runCheck, timed } from "./run_check.js";

/**
 * Entry of the process in which a node is examined: a check that crashes or hangs takes nothing with it. Its agent sends
 * one command at a time and ends it; it ends itself when its agent has gone.
 */
function main(): void {
  const send = (message: FromChecker) => {
    process.send?.(message, undefined, undefined, () => {});
  };
  process.on("disconnect", () => process.exit(0));
  process.on("SIGINT", () => {});
  process.on("SIGTERM", () => {});
  const native = loadNative();
  native.threadsSet(native.cpuInfo().threads);
  const obey = async (message: ToChecker): Promise<void> => {
    if (message.kind === "listen") {
      send({ kind: "listening", port: native.commListen(message.place.host) });
      return;
    }
    const result =
      message.kind === "connect"
        ? await timed("collective", () => checkPair(native, message))
        : await runCheck(native, message.name, message.place);
    send({ kind: "result", result });
  };
  process.on("message", (message: ToChecker) => void obey(message));
  send({ kind: "booted" });
}

main();
