import { toGokuError } from "../../job/errors.js";
import type { CheckName, CheckPlace, CheckResult, DeviceCheck, LoneCheck } from "../check_messages.js";
import type { Native } from "../engine/native.js";
import { checkCopy } from "./copy_bandwidth.js";
import { checkDeviceCopy } from "./device_copy.js";
import { checkDeviceMatrix } from "./device_matrix.js";
import { checkDeviceMemory } from "./device_memory.js";
import { checkDisk } from "./disk_verify.js";
import type { Finding } from "./finding.js";
import { checkLoopback } from "./loopback.js";
import { checkMatrix } from "./matrix_product.js";
import { checkMemory } from "./memory_pattern.js";

/**
 * Runs one check; what it throws is a failure, too.
 * @param native the addon of what is examined: the CPU's, or for checks of a device CUDA's, which shows that device alone
 */
export function runCheck(
  native: Native,
  name: LoneCheck | DeviceCheck,
  place: CheckPlace,
): Promise<CheckResult> {
  return timed(name, () => find(native, name, place));
}

/** The result of a finding, with its name and the time it took. */
export async function timed(name: CheckName, find: () => Promise<Finding>): Promise<CheckResult> {
  const begunMs = performance.now();
  const finding = await find().catch((error: unknown): Finding => {
    const { code, message } = toGokuError(error);
    return { ok: false, value: 0, unit: "", detail: `${code}: ${message}` };
  });
  return { name, ...finding, seconds: (performance.now() - begunMs) / 1000 };
}

async function find(native: Native, name: LoneCheck | DeviceCheck, place: CheckPlace): Promise<Finding> {
  const { budgetMs, stateDir, checkpointDir } = place;
  switch (name) {
    case "memory":
      return checkMemory(place);
    case "matrix":
      return checkMatrix(native, place);
    case "copy":
      return checkCopy(place);
    case "disk":
      return checkDisk(native, { folder: stateDir, budgetMs, scratch: stateDir });
    case "checkpoint_disk":
      return checkDisk(native, { folder: checkpointDir, budgetMs, scratch: stateDir });
    case "loopback":
      return await checkLoopback(place);
    case "device_memory":
      return checkDeviceMemory(native, place);
    case "device_matrix":
      return checkDeviceMatrix(native, place);
    case "device_upload":
    case "device_download":
    case "device_copy":
      return checkDeviceCopy(native, name, place);
  }
}
