import { GokuError } from "../../job/errors.js";
import { loadNative } from "../engine/load_native.js";
import { DTYPE, type Native } from "../engine/native.js";
import { failpoint } from "../failpoints.js";

/**
 * The addon of the one device that this process sees, which has then been used: a driver takes its time for that, which no
 * check pays for. Throws when the device is not there or does not answer.
 * @param index of the device on its node, for people
 */
export function openDevice(index: number): Native {
  const native = loadNative("cuda");
  failpoint("selfcheck.device.start");
  if (native.devices().length !== 1)
    throw new GokuError("DEVICE_MISSING", `Cannot examine device ${index}: CUDA shows it no more`);
  const [x, y] = [native.tensorAlloc(DTYPE.f32, 1), native.tensorAlloc(DTYPE.f32, 1)];
  native.tensorWrite(x, 0, new Uint8Array(4));
  native.linearForward(y, x, x, 0, 1, 1, 1, 0); // loads the library of products
  native.tensorRead(y, 0, new Uint8Array(4));
  for (const tensor of [x, y]) native.tensorFree(tensor);
  return native;
}
