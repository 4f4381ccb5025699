import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import type { Device } from "../../job/device.js";
import { productFolder } from "../../job/entry_points.js";
import { GokuError } from "../../job/errors.js";
import { NATIVE_CONTRACT, type Native } from "./native.js";

/** Where the build puts each addon, below the folder of package.json; the variable that names another file; what builds it. */
const ADDONS = {
  cpu: {
    what: "the native addon",
    file: path.join("build", "Release", "goku_cpu.node"),
    variable: "GOKU_NATIVE",
    code: "NATIVE_MISSING",
    advice: "run make build",
  },
  cuda: {
    what: "the CUDA backend",
    file: path.join("build", "cuda", "Release", "goku_cuda.node"),
    variable: "GOKU_NATIVE_CUDA",
    code: "DEVICE_MISSING",
    advice: "run make cuda (docs/cuda.md)",
  },
} as const;

/** The addon's file: the one that its variable names, or the one that was built; null: there is none. */
export function addonPath(device: Device): string | null {
  const { file, variable } = ADDONS[device];
  const named = process.env[variable];
  if (named !== undefined && named !== "") return path.resolve(named);
  const built = path.join(productFolder(), file);
  return existsSync(built) ? built : null;
}

/**
 * Loads the addon of a device. Every call in one process or worker thread returns the same object. Throws NATIVE_MISSING, or
 * DEVICE_MISSING for another device than the CPU.
 */
export function loadNative(device: Device = "cpu"): Native {
  const { what, file: usual, code, advice } = ADDONS[device];
  const file = addonPath(device);
  if (file === null)
    throw new GokuError(code, `Cannot load ${what}: no ${usual} in ${productFolder()}, ${advice}`);
  let native: Native;
  try {
    native = createRequire(import.meta.url)(file) as Native;
  } catch (cause) {
    const why = (cause as Error).message.split("\n")[0];
    throw new GokuError(code, `Cannot load ${what} ${file}: ${why}, ${advice}`, { cause });
  }
  if (native.contract !== NATIVE_CONTRACT) {
    throw new GokuError(
      code,
      `Cannot load ${what} ${file}: its contract is ${native.contract}, want ${NATIVE_CONTRACT}, ${advice}`,
    );
  }
  return native;
}
