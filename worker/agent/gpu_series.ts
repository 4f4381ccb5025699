import type { Labels } from "../../job/metric_set.js";
import type { NodeMetric } from "../../job/metrics.js";
import { CLOCK_REASONS } from "../../job/signals/clock_reasons.js";
import { sumOfLinks, type WatchedGpu } from "./signals/gpu_book.js";

export type GpuMetric = Extract<NodeMetric, `goku_gpu_${string}`>;

/** Every series of a GPU, in base units; null: it is not told, and so not shown. Pure. */
export function gpuSeries({ index, uuid, reading }: WatchedGpu): [GpuMetric, Labels, number | null][] {
  const own = { gpu: String(index), uuid };
  const up: [GpuMetric, Labels, number] = ["goku_gpu_up", own, reading === null ? 0 : 1];
  if (reading === null) return [up];
  const { clockReasons, links } = reading;
  const linkCount = (isUp: boolean) =>
    links.length === 0 ? null : links.filter((link) => link.up === isUp).length;
  return [
    up,
    ["goku_gpu_temperature_celsius", { ...own, part: "core" }, reading.temperatureCelsius],
    ["goku_gpu_temperature_celsius", { ...own, part: "memory" }, reading.memoryTemperatureCelsius],
    ["goku_gpu_clock_hertz", { ...own, clock: "sm" }, times(reading.smClockMhz, 1e6)],
    ["goku_gpu_clock_hertz", { ...own, clock: "memory" }, times(reading.memoryClockMhz, 1e6)],
    ...Object.entries(CLOCK_REASONS).map(([reason, bit]): [GpuMetric, Labels, number | null] => [
      "goku_gpu_clock_limited",
      { ...own, reason },
      clockReasons === null ? null : clockReasons & bit ? 1 : 0,
    ]),
    ["goku_gpu_power_watts", own, times(reading.powerMilliwatts, 1e-3)],
    ["goku_gpu_power_limit_watts", own, times(reading.powerLimitMilliwatts, 1e-3)],
    ["goku_gpu_memory_used_bytes", own, reading.memoryUsedBytes],
    ["goku_gpu_memory_size_bytes", own, reading.memoryTotalBytes],
    ["goku_gpu_utilization_ratio", own, times(reading.utilizationPercent, 1e-2)],
    ["goku_gpu_ecc_errors_total", { ...own, kind: "corrected" }, reading.eccCorrected],
    ["goku_gpu_ecc_errors_total", { ...own, kind: "uncorrected" }, reading.eccUncorrected],
    ["goku_gpu_retired_pages", own, reading.retiredPages],
    ["goku_gpu_remapped_rows", { ...own, kind: "corrected" }, reading.remappedRowsCorrected],
    ["goku_gpu_remapped_rows", { ...own, kind: "uncorrected" }, reading.remappedRowsUncorrected],
    ["goku_gpu_remap_pending", own, times(reading.remapPending, 1)],
    ["goku_gpu_remap_failed", own, times(reading.remapFailed, 1)],
    ["goku_gpu_nvlinks", { ...own, state: "up" }, linkCount(true)],
    ["goku_gpu_nvlinks", { ...own, state: "down" }, linkCount(false)],
    ["goku_gpu_nvlink_errors_total", { ...own, kind: "replay" }, sumOfLinks(reading, "replays")],
    ["goku_gpu_nvlink_errors_total", { ...own, kind: "recovery" }, sumOfLinks(reading, "recoveries")],
    ["goku_gpu_nvlink_errors_total", { ...own, kind: "crc" }, sumOfLinks(reading, "crcErrors")],
  ];
}

function times(value: number | boolean | null, factor: number): number | null {
  return value === null ? null : Number(value) * factor;
}
