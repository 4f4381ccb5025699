import type { SignalKind } from "./signal_kind.js";

/** A counter of the machine's errors, summed over its devices. */
export interface CounterKind extends SignalKind {
  /** Where it is read, `*` for each device. */
  files: string;
  /** Told when it grew by more than this in a minute; once, and again when it has been below half of that. 0: by any growth. */
  perMinuteMax: number;
  /**
   * What machines do alike is no fault of one of them: where three or more machines can be compared, it must also have grown ten
   * times as fast as the median of the others.
   */
  compared: boolean;
}

export const COUNTERS = {
  memory_correctable: {
    files: "sys/devices/system/edac/mc/mc*/ce_count",
    class: "machine_fault",
    cause: "machine",
    action: "note",
    perMinuteMax: 60,
    compared: false,
    meaning:
      "memory errors are corrected at a pace that often ends in one that cannot be: replace the module",
  },
  memory_uncorrectable: {
    files: "sys/devices/system/edac/mc/mc*/ue_count",
    class: "machine_fault",
    cause: "machine",
    action: "replace",
    perMinuteMax: 0,
    compared: false,
    meaning: "memory held an error that could not be corrected",
  },
  net_errors: {
    files: "sys/class/net/*/statistics/{rx_errors,tx_errors}",
    class: "network_fault",
    cause: "machine",
    action: "suspect",
    perMinuteMax: 600,
    compared: true,
    meaning: "a network interface sends or gets damaged frames",
  },
  net_dropped: {
    files: "sys/class/net/*/statistics/{rx_dropped,tx_dropped}",
    class: "network_fault",
    cause: "unclear",
    action: "note",
    perMinuteMax: 60_000,
    compared: true,
    meaning: "the machine drops frames: it cannot keep up, or gets what it does not want",
  },
  link_flaps: {
    files: "sys/class/net/*/carrier_changes",
    class: "network_fault",
    cause: "machine",
    action: "suspect",
    perMinuteMax: 5,
    compared: true,
    meaning: "the link of a network interface comes and goes",
  },
  ib_symbol_errors: {
    files: "sys/class/infiniband/*/ports/*/counters/symbol_error",
    class: "network_fault",
    cause: "machine",
    action: "suspect",
    perMinuteMax: 120,
    compared: true,
    meaning: "an InfiniBand link has a bad signal: a cable or a transceiver",
  },
  ib_receive_errors: {
    files: "sys/class/infiniband/*/ports/*/counters/port_rcv_errors",
    class: "network_fault",
    cause: "machine",
    action: "suspect",
    perMinuteMax: 120,
    compared: true,
    meaning: "an InfiniBand port gets damaged packets",
  },
  ib_recoveries: {
    files: "sys/class/infiniband/*/ports/*/counters/link_error_recovery",
    class: "network_fault",
    cause: "machine",
    action: "suspect",
    perMinuteMax: 5,
    compared: true,
    meaning: "an InfiniBand link has to be trained again and again",
  },
  ib_link_downed: {
    files: "sys/class/infiniband/*/ports/*/counters/link_downed",
    class: "network_fault",
    cause: "machine",
    action: "suspect",
    perMinuteMax: 0,
    compared: false,
    meaning: "an InfiniBand link went down",
  },
  thermal_throttles: {
    files: "sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count",
    class: "thermal",
    cause: "machine",
    action: "note",
    perMinuteMax: 600,
    compared: true,
    meaning: "processors are held back by heat",
  },
  gpu_ecc_corrected: {
    files: "NVML, total volatile ECC errors, corrected",
    class: "gpu_fault",
    cause: "machine",
    action: "note",
    perMinuteMax: 60,
    compared: false,
    meaning: "a GPU corrects memory errors at a pace that often ends in one that it cannot correct",
  },
  gpu_ecc_uncorrected: {
    files: "NVML, total volatile ECC errors, uncorrected",
    class: "gpu_fault",
    cause: "machine",
    action: "replace",
    perMinuteMax: 0,
    compared: false,
    meaning: "a GPU's memory held an error that could not be corrected",
  },
  gpu_remap_pending: {
    files: "NVML, remapped rows and retired pages, pending",
    class: "gpu_fault",
    cause: "machine",
    action: "replace",
    perMinuteMax: 0,
    compared: false,
    meaning: "a page or row of a GPU's memory is bad: it is replaced at the next reset of the GPU",
  },
  gpu_remap_failed: {
    files: "NVML, remapped rows, failure",
    class: "gpu_fault",
    cause: "machine",
    action: "quarantine",
    perMinuteMax: 0,
    compared: false,
    meaning: "a bad row of a GPU's memory could not be replaced: the GPU has to be",
  },
  gpu_thermal_slowdowns: {
    files: "NVML, clock event reasons: readings with a thermal slowdown",
    class: "thermal",
    cause: "machine",
    action: "note",
    perMinuteMax: 5,
    compared: true,
    meaning: "a GPU is held back by heat",
  },
  gpu_power_brakes: {
    files: "NVML, clock event reasons: readings with a power brake",
    class: "machine_fault",
    cause: "machine",
    action: "note",
    perMinuteMax: 5,
    compared: true,
    meaning: "the machine's power supply holds a GPU back",
  },
  nvlink_crc_errors: {
    files: "NVML, NVLink CRC errors of flits and data",
    class: "gpu_fault",
    cause: "machine",
    action: "suspect",
    perMinuteMax: 6_000,
    compared: true,
    meaning: "a link between GPUs has a bad signal",
  },
  nvlink_retries: {
    files: "NVML, NVLink replays and recoveries",
    class: "gpu_fault",
    cause: "machine",
    action: "suspect",
    perMinuteMax: 5,
    compared: true,
    meaning: "a link between GPUs has to send or be trained again",
  },
} as const satisfies Record<string, CounterKind>;

export type CounterName = keyof typeof COUNTERS;
export const COUNTER_NAMES = Object.keys(COUNTERS) as CounterName[];

/** How much faster than the median of other machines, and how many machines that takes. */
export const FLEET_FACTOR = 10;
export const FLEET_MACHINES_MIN = 3;

export interface LinkKind extends SignalKind {
  files: string;
  /** It is told where it has been down from the beginning, too: what does not exist is not listed. */
  expected: boolean;
}

/** States that change for the worse: not counters, but read with them. */
export const LINKS = {
  link_down: {
    files: "sys/class/net/*/operstate, of interfaces with a device",
    class: "network_fault",
    cause: "machine",
    action: "suspect",
    meaning: "a network interface that was up is down",
    expected: false,
  },
  ib_down: {
    files: "sys/class/infiniband/*/ports/*/state",
    class: "network_fault",
    cause: "machine",
    action: "suspect",
    meaning: "an InfiniBand port that was active is not",
    expected: false,
  },
  nvlink_down: {
    files: "NVML, NVLink state",
    class: "gpu_fault",
    cause: "machine",
    action: "suspect",
    meaning: "a link between GPUs that was active is not",
    expected: false,
  },
  gpu_lost: {
    files: "NVML, GPU is lost, or needs a reset, or is not listed any more",
    class: "gpu_fault",
    cause: "machine",
    action: "quarantine",
    meaning: "the driver cannot reach a GPU, or says that it must be reset",
    expected: true,
  },
  gpu_silent: {
    files: "NVML, a call that has not come back",
    class: "gpu_fault",
    cause: "machine",
    action: "suspect",
    meaning: "the driver of the GPUs does not answer",
    expected: true,
  },
} as const satisfies Record<string, LinkKind>;

export type LinkName = keyof typeof LINKS;
