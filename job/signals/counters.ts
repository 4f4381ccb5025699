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
} as const satisfies Record<string, CounterKind>;

export type CounterName = keyof typeof COUNTERS;
export const COUNTER_NAMES = Object.keys(COUNTERS) as CounterName[];

/** How much faster than the median of other machines, and how many machines that takes. */
export const FLEET_FACTOR = 10;
export const FLEET_MACHINES_MIN = 3;

/** States of links that change for the worse: not counters, but read with them. */
export const LINKS = {
  link_down: {
    files: "sys/class/net/*/operstate, of interfaces with a device",
    class: "network_fault",
    cause: "machine",
    action: "suspect",
    meaning: "a network interface that was up is down",
  },
  ib_down: {
    files: "sys/class/infiniband/*/ports/*/state",
    class: "network_fault",
    cause: "machine",
    action: "suspect",
    meaning: "an InfiniBand port that was active is not",
  },
} as const satisfies Record<string, SignalKind & { files: string }>;

export type LinkName = keyof typeof LINKS;
