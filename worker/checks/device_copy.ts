import { rmSync } from "node:fs";
import path from "node:path";
import type { CheckPlace, DeviceCheck } from "../check_messages.js";
import { DTYPE, type Native, type TensorId } from "../engine/native.js";
import { type FailpointName, failpoint } from "../failpoints.js";
import type { Finding } from "./finding.js";
import { BUDGET_MS_SHORT } from "./patterns.js";

const BUFFER_BYTES = 64 * 2 ** 20;
const BUFFER_BYTES_SHORT = 16 * 2 ** 20;
/** Of a small device: two buffers lie on it. */
const BUFFER_SHARE = 1 / 16;
/** Copies that are timed together grow until they take this share of the budget: the start of a copy then counts for little. */
const ROUND_SHARE = 1 / 8;
const COPIES_MAX = 16;

type Copy = Extract<DeviceCheck, "device_upload" | "device_download" | "device_copy">;
/** Whether each end is in the host's memory. */
const COPIES: Record<Copy, { from: boolean; to: boolean; point: FailpointName; way: string }> = {
  device_upload: { from: true, to: false, point: "selfcheck.device.upload", way: "to the device" },
  device_download: { from: false, to: true, point: "selfcheck.device.download", way: "from the device" },
  device_copy: { from: false, to: false, point: "selfcheck.device.copy", way: "within the device" },
};

/**
 * The pace at which memory is copied to a device, from it, or within it, bytes copied by second, best of all rounds. The
 * host's side is page-locked memory, so that the link is what is measured: one that came up narrower than it is made, or
 * slower, shows here. Whether bits arrive is what the check of its memory says.
 */
export function checkDeviceCopy(
  native: Native,
  name: Copy,
  { budgetMs, stateDir }: Pick<CheckPlace, "budgetMs" | "stateDir">,
): Finding {
  const { from, to, point, way } = COPIES[name];
  const most = native.devices()[0]!.memoryBytes * BUFFER_SHARE;
  const count = Math.floor(
    Math.min(most, budgetMs < BUDGET_MS_SHORT ? BUFFER_BYTES_SHORT : BUFFER_BYTES) / 4,
  );
  const bytes = 4 * count;
  const page = from || to ? mapPage(native, stateDir, bytes) : null;
  const tensors: TensorId[] = [];
  const tensor = (onHost: boolean) => {
    const id = onHost ? native.pageTensor(page!, 0, DTYPE.f32, count) : native.tensorAlloc(DTYPE.f32, count);
    tensors.push(id);
    return id;
  };
  try {
    const [source, target] = [tensor(from), tensor(to)];
    const begunMs = performance.now();
    const last = new Uint8Array(4);
    let fastestMs = Number.POSITIVE_INFINITY;
    let copies = 1;
    let rounds = 0;
    do {
      const startMs = performance.now();
      failpoint(point);
      for (let i = 0; i < copies; i++) native.copy2d(target, 0, count, source, 0, count, 1, count);
      native.tensorRead(target, count - 1, last); // copies are only queued; this waits for them
      const tookMs = performance.now() - startMs;
      fastestMs = Math.min(fastestMs, tookMs / copies);
      if (tookMs < budgetMs * ROUND_SHARE) copies = Math.min(2 * copies, COPIES_MAX);
      rounds += 1;
    } while (performance.now() - begunMs < budgetMs);
    const detail = `best of ${rounds} times ${bytes / 2 ** 20} MiB ${way}`;
    return { ok: true, value: bytes / fastestMs / 1e6, unit: "GB/s", detail };
  } finally {
    for (const id of tensors) native.tensorFree(id);
    if (page !== null) native.pageUnmap(page);
  }
}

/** Memory of the host that has no name any more. */
function mapPage(native: Native, stateDir: string, bytes: number): Uint8Array {
  const file = path.join(stateDir, `selfcheck.${process.pid}.copy`);
  const page = native.pageMap(file, bytes);
  rmSync(file, { force: true });
  page.fill(0x5a); // its memory is made here, so that no round pays for that
  return page;
}
