import { loadNative } from "../engine/load_native.js";
import type { FromGpuReader, ToGpuReader } from "../gpu_messages.js";

/**
 * Entry of the process that reads GPUs by NVML. A driver that hangs takes nothing with it: whom it asks is said first, so that its
 * agent knows, when it hears no more, who does not answer.
 */
process.on("message", (_: ToGpuReader) => say(read()));
process.on("disconnect", () => process.exit());

function read(): FromGpuReader {
  try {
    say({ kind: "asks", gpu: null });
    const native = loadNative();
    if (!native.nvmlOpen()) return { kind: "missing" };
    const gpus = Array.from({ length: native.nvmlCount() }, (_, gpu) => {
      say({ kind: "asks", gpu });
      return native.nvmlRead(gpu);
    });
    say({ kind: "asks", gpu: null });
    return { kind: "read", gpus, xids: native.nvmlXids() };
  } catch (error) {
    return { kind: "refused", why: (error as Error).message };
  }
}

function say(message: FromGpuReader): void {
  process.send!(message);
}
