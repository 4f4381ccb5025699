import { execFile } from "node:child_process";
import { z } from "zod";
import { entryPoint } from "../../job/entry_points.js";
import { addonPath } from "../engine/load_native.js";
import type { DeviceInfo } from "../engine/native.js";

/** CUDA devices of this node as its ranks would find them; `why`: why there are none, and what to do. */
export interface FoundDevices {
  devices: readonly DeviceInfo[];
  why: string;
}

/** Starting the driver of a machine with eight GPUs can take ten seconds where nothing keeps it loaded. */
const LIMIT_MS = 60_000;
const listSchema = z.array(z.object({ name: z.string().min(1), memoryBytes: z.number().positive() }));

/** Asks a process of its own, unless there is no backend to ask with. Never throws. */
export async function findDevices(): Promise<FoundDevices> {
  if (addonPath("cuda") === null) return { devices: [], why: "its backend is not built: make cuda" };
  return await new Promise((resolve) => {
    execFile(
      process.execPath,
      [entryPoint("devices")],
      { timeout: LIMIT_MS, killSignal: "SIGKILL" },
      (error, stdout, stderr) =>
        resolve(error === null ? readDevices(stdout) : { devices: [], why: failureText(error, stderr) }),
    );
  });
}

function readDevices(stdout: string): FoundDevices {
  const devices = listSchema.parse(JSON.parse(stdout));
  const why = "the driver shows no GPU: see nvidia-smi and CUDA_VISIBLE_DEVICES";
  return devices.length === 0 ? { devices, why } : { devices, why: "" };
}

/** What the process said last of why it failed. */
function failureText(error: Error & { killed?: boolean }, stderr: string): string {
  if (error.killed) return `its driver did not answer in ${LIMIT_MS / 1000} s: see nvidia-smi`;
  const told = stderr.trim().split("\n").at(-1);
  return told === undefined || told === "" ? error.message.split("\n")[0]! : told;
}
