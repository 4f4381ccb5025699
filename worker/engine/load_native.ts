import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { GokuError } from "../../job/errors.js";
import { NATIVE_CONTRACT, type Native } from "./native.js";

/** Where the build puts the addon, below the folder of package.json. */
const ADDON = path.join("build", "Release", "goku_cpu.node");

/** The addon's file: GOKU_NATIVE, or the first `build/Release` on the way up from this module. */
function addonPath(): string {
  const named = process.env.GOKU_NATIVE;
  if (named !== undefined && named !== "") return path.resolve(named);
  const start = path.dirname(fileURLToPath(import.meta.url));
  for (let folder = start; ; folder = path.dirname(folder)) {
    const candidate = path.join(folder, ADDON);
    if (existsSync(candidate)) return candidate;
    if (folder === path.dirname(folder)) {
      throw new GokuError(
        "NATIVE_MISSING",
        `Cannot load the native addon: no ${ADDON} above ${start}, run make build`,
      );
    }
  }
}

/** Loads the CPU addon. Every call in one process or worker thread returns the same object. */
export function loadNative(): Native {
  const file = addonPath();
  let native: Native;
  try {
    native = createRequire(import.meta.url)(file) as Native;
  } catch (cause) {
    throw new GokuError(
      "NATIVE_MISSING",
      `Cannot load the native addon ${file}: ${(cause as Error).message.split("\n")[0]}, run make build`,
      { cause },
    );
  }
  if (native.contract !== NATIVE_CONTRACT) {
    throw new GokuError(
      "NATIVE_MISSING",
      `Cannot load the native addon ${file}: its contract is ${native.contract}, want ${NATIVE_CONTRACT}, run make build`,
    );
  }
  return native;
}
