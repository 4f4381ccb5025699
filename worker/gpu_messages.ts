import type { GpuReading, GpuXid } from "./engine/native.js";

export type { GpuReading, GpuXid, NvLinkReading } from "./engine/native.js";

/** What the agent says to the process that reads GPUs; everything else it does by itself. */
export interface ToGpuReader {
  kind: "read";
}

/** What that process says: whom it is about to ask, each time, and at last what came of it. */
export type FromGpuReader =
  | {
      kind: "asks";
      /** In NVML's order; null: the driver itself. */
      gpu: number | null;
    }
  /** This machine has no libnvidia-ml.so.1. */
  | { kind: "missing" }
  /** The driver, or the addon, does not work. */
  | { kind: "refused"; why: string }
  | {
      kind: "read";
      /** In NVML's order; null: this process may not look at it. */
      gpus: (GpuReading | null)[];
      xids: GpuXid[];
    };
