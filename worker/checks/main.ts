import type { FromChecker, ToChecker } from "../check_messages.js";
import { loadNative } from "../engine/load_native.js";
import type { Native } from "../engine/native.js";
import { setFailpointScope } from "../failpoints.js";
import { openDevice } from "./open_device.js";
import { checkPair } from "./pair_collective.js";
import { runCheck, timed } from "./run_check.js";

/**
 * Entry of the process in which a node is examined, or one device of it: a check that crashes or hangs takes nothing with
 * it. Its agent sends one command at a time and ends it; it ends itself when its agent has gone.
 * The first argument is the number of the device, if it is for one; CUDA shows this process that one alone.
 */
function main(): void {
  const send = (message: FromChecker) => {
    process.send?.(message, undefined, undefined, () => {});
  };
  process.on("disconnect", () => process.exit(0));
  process.on("SIGINT", () => {});
  process.on("SIGTERM", () => {});
  const device = process.argv[2] === undefined ? null : Number(process.argv[2]);
  setFailpointScope({ step: 0, rank: device ?? 0 });
  const native = device === null ? openProcessor() : openDevice(device);
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

function openProcessor(): Native {
  const native = loadNative();
  native.threadsSet(native.cpuInfo().threads);
  return native;
}

try {
  main();
} catch (error) {
  // The last line of what it wrote is what its agent tells.
  process.stderr.write(`${(error as Error).message}\n`);
  process.exit(1);
}
