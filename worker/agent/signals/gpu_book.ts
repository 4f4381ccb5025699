import { CLOCK_REASONS, THERMAL_REASONS } from "../../../job/signals/clock_reasons.js";
import type { CounterName } from "../../../job/signals/counters.js";
import { visibleIndices } from "../../device/visible_indices.js";
import type { GpuReading, NvLinkReading } from "../../gpu_messages.js";
import type { MachineReading } from "./read_counters.js";

/** A GPU that ranks of this node see. */
export interface WatchedGpu {
  /** By which ranks see it. */
  index: number;
  /** Empty: it was lost before it told. */
  uuid: string;
  /** Null: the driver did not reach it the last time. */
  reading: GpuReading | null;
}

interface KnownGpu {
  index: number;
  uuid: string;
  /** In NVML's order; null: it is not listed any more. */
  position: number | null;
  /** Readings in which heat, or the power supply, held it back. */
  thermal: number;
  brakes: number;
}

/** Makes of readings of GPUs, one after another, what counters and states of the machine are. Pure. */
export class GpuBook {
  /** By UUID. */
  private readonly known = new Map<string, KnownGpu>();
  private readonly visible: string | undefined;

  /** @param visible CUDA_VISIBLE_DEVICES: others are somebody else's affair */
  constructor(visible: string | undefined) {
    this.visible = visible;
  }

  /** @param gpus in NVML's order; null: it may not be looked at */
  take(gpus: readonly (GpuReading | null)[]): { machine: MachineReading; watched: WatchedGpu[] } {
    const machine: MachineReading = { counts: [], links: [] };
    const readings = this.identify(gpus);
    const watched = [...this.known].map(([key, gpu]): WatchedGpu => {
      const { index, uuid } = gpu;
      // One that the driver does not list any more is lost as well.
      const reading = readings.get(key) ?? null;
      machine.links.push({ link: "gpu_lost", device: label(gpu), up: reading !== null });
      if (reading !== null) addReading(machine, gpu, reading);
      return { index, uuid, reading };
    });
    return { machine, watched: watched.sort((a, b) => a.index - b.index) };
  }

  /** What a person reads of the GPU at a place of NVML's list. */
  labelAt(position: number): string {
    const gpu = this.at(position);
    return gpu === undefined ? `GPU ${position}` : label(gpu);
  }

  /** The readings of those that can be reached; all that ranks see are known from then on. */
  private identify(gpus: readonly (GpuReading | null)[]): Map<string, GpuReading> {
    const uuids = gpus.map((gpu, position) => gpu?.uuid ?? this.at(position)?.uuid ?? "");
    const indices = visibleIndices(uuids, this.visible);
    const readings = new Map<string, GpuReading>();
    for (const gpu of this.known.values()) gpu.position = null;
    for (const [position, gpu] of gpus.entries()) {
      const index = indices[position] ?? null;
      const uuid = uuids[position]!;
      if (gpu === null || index === null) continue;
      const nameless = `at ${position}`;
      const key = uuid === "" ? nameless : uuid;
      // It keeps the index that it had, as its ranks do, though another before it is listed no more.
      const before = this.known.get(key) ?? { index, uuid, thermal: 0, brakes: 0 };
      this.known.set(key, { ...before, position });
      if (gpu.lost) continue;
      readings.set(key, gpu);
      if (key !== nameless) this.known.delete(nameless);
    }
    return readings;
  }

  private at(position: number): KnownGpu | undefined {
    return [...this.known.values()].find((gpu) => gpu.position === position);
  }
}

function label({ index, uuid }: KnownGpu): string {
  return uuid === "" ? `GPU ${index}` : `GPU ${index} (${uuid})`;
}

function addReading({ counts, links }: MachineReading, gpu: KnownGpu, reading: GpuReading): void {
  const device = label(gpu);
  const add = (counter: CounterName, value: number | boolean | null) => {
    if (value !== null) counts.push({ counter, device, value: Number(value) });
  };
  add("gpu_ecc_corrected", reading.eccCorrected);
  add("gpu_ecc_uncorrected", reading.eccUncorrected);
  add("gpu_remap_pending", reading.remapPending);
  add("gpu_remap_failed", reading.remapFailed);
  const { clockReasons } = reading;
  if (clockReasons !== null) {
    if (clockReasons & THERMAL_REASONS) gpu.thermal++;
    if (clockReasons & CLOCK_REASONS.power_brake) gpu.brakes++;
    add("gpu_thermal_slowdowns", gpu.thermal);
    add("gpu_power_brakes", gpu.brakes);
  }
  add("nvlink_crc_errors", sumOfLinks(reading, "crcErrors"));
  const replays = sumOfLinks(reading, "replays");
  const recoveries = sumOfLinks(reading, "recoveries");
  if (replays !== null || recoveries !== null) add("nvlink_retries", (replays ?? 0) + (recoveries ?? 0));
  for (const { link, up } of reading.links)
    links.push({ link: "nvlink_down", device: `${device} link ${link}`, up });
}

/** Null: no link tells it. */
export function sumOfLinks(
  { links }: GpuReading,
  field: Exclude<keyof NvLinkReading, "link" | "up">,
): number | null {
  const told = links.flatMap((link) => link[field] ?? []);
  return told.length === 0 ? null : told.reduce((sum, count) => sum + count, 0);
}
