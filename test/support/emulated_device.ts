import { loadNative } from "../../worker/engine/load_native.js";

/** Tests run on a device emulated on the CPU, some hundred times slower than the CPU itself. */
export const onEmulatedDevice = loadNative()
  .devices()
  .some(({ name }) => name.startsWith("emulated"));
