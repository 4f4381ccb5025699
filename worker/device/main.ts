import { loadNative } from "../engine/load_native.js";

/** Entry of the process that looks for CUDA devices: a driver that crashes or hangs takes nothing with it. Prints them as JSON, or why not. */
try {
  process.stdout.write(JSON.stringify(loadNative("cuda").devices()));
} catch (error) {
  process.stderr.write((error as Error).message);
  process.exitCode = 1;
}
