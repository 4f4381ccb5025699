import type { SignalKind } from "./signal_kind.js";

/** A line of the kernel's log, apart from Xids. */
export interface KernelLine extends SignalKind {
  /** `kernel.` and this is its kind. */
  name: string;
  pattern: RegExp;
}

/**
 * The first that matches counts. Named groups: `device`, and `pid` where a process is named. No expression has a repetition
 * inside another one or two that could match the same text next to each other; lines of the kernel are below 1,000 characters.
 */
export const KERNEL_LINES: readonly KernelLine[] = [
  {
    name: "oom_kill",
    // mm/oom_kill.c; also "Memory cgroup out of memory: Killed process"
    pattern: /ut of memory(?: \([a-z_]+\))?: Killed process (?<pid>\d+) \(/,
    class: "out_of_memory",
    cause: "program",
    action: "note",
    meaning: "the kernel killed a process because memory was used up",
  },
  {
    name: "gpu_lost",
    pattern: /^NVRM: GPU (?:at )?(?:PCI:)?(?<device>[0-9A-Fa-f:.]+): GPU has fallen off the bus/,
    class: "gpu_fault",
    cause: "machine",
    action: "quarantine",
    meaning: "the GPU has fallen off the bus: the driver cannot reach it",
  },
  {
    name: "memory_uncorrectable",
    pattern:
      /^EDAC (?<device>\S+): (?:\d+ )?UE |^Memory failure: 0x[0-9a-f]+: |ncorrected hardware memory error/,
    class: "machine_fault",
    cause: "machine",
    action: "replace",
    meaning: "memory held an error that could not be corrected",
  },
  {
    name: "memory_correctable",
    pattern: /^EDAC (?<device>\S+): (?:\d+ )?CE /,
    class: "machine_fault",
    cause: "machine",
    action: "note",
    meaning: "memory held an error that was corrected; a storm of them is told by the counter",
  },
  {
    name: "hardware_error",
    pattern:
      /\[Hardware Error\]: event severity: (?:recoverable|fatal)|mce: \[Hardware Error\]: .*Machine Check Exception/,
    class: "machine_fault",
    cause: "machine",
    action: "replace",
    meaning: "the firmware or a processor reports an error that was not corrected",
  },
  {
    name: "machine_check",
    pattern: /\[Hardware Error\]: (?:event severity: corrected|Machine check events logged|CPU )/,
    class: "machine_fault",
    cause: "machine",
    action: "note",
    meaning: "a processor logged a machine check, which may have been corrected",
  },
  {
    name: "pcie_uncorrected",
    pattern:
      /(?:pcieport )?(?<device>[0-9a-f]{4}:[0-9a-f:.]+): (?:AER: Uncorrect|PCIe Bus Error: severity=Uncorrect)/,
    class: "machine_fault",
    cause: "machine",
    action: "suspect",
    meaning: "a device on the PCIe bus lost data",
  },
  {
    name: "nvme_down",
    pattern:
      /^nvme (?<device>nvme\d+): (?:controller is down|Device not ready; aborting|Removing after probe failure)/,
    class: "storage_fault",
    cause: "machine",
    action: "suspect",
    meaning: "an NVMe disk does not answer",
  },
  {
    name: "disk_error",
    pattern: /(?:I\/O|critical medium|critical target) error, dev (?<device>\w+),/,
    class: "storage_fault",
    cause: "machine",
    action: "suspect",
    meaning: "a disk could not read or write a sector",
  },
  {
    name: "file_system",
    pattern: /^(?:EXT4-fs|BTRFS) (?:error|critical) \(device (?<device>[\w-]+)\)/,
    class: "storage_fault",
    cause: "machine",
    action: "suspect",
    meaning: "a file system is damaged, or the disk below it fails",
  },
  {
    name: "file_system_down",
    pattern:
      /^(?:EXT4-fs|XFS) \((?<device>[\w-]+)\): (?:Remounting filesystem read-only|[Mm]etadata (?:corruption|I\/O error)|.*Shutting down filesystem)/,
    class: "storage_fault",
    cause: "machine",
    action: "suspect",
    meaning: "a file system takes no more writes",
  },
  {
    name: "nfs",
    pattern: /^nfs: server (?<device>\S+) not responding/,
    class: "storage_fault",
    cause: "unclear",
    action: "note",
    meaning: "a file server does not answer",
  },
  {
    name: "network_watchdog",
    pattern: /NETDEV WATCHDOG: (?:CPU: \d+: transmit queue|(?<device>[\w.-]+) \()/,
    class: "network_fault",
    cause: "machine",
    action: "suspect",
    meaning: "a network card does not send",
  },
  {
    name: "network_health",
    pattern: /^mlx5_core (?<device>[0-9a-f:.]+): .*(?:health compromised|device's health|Fatal error)/,
    class: "network_fault",
    cause: "machine",
    action: "suspect",
    meaning: "a network card reports a fault of its own",
  },
  {
    name: "hung_task",
    pattern: /^INFO: task \S+:(?<pid>\d+) blocked for more than \d+ seconds/,
    class: "storage_fault",
    cause: "unclear",
    action: "note",
    meaning: "a process waits in the kernel, most often for a disk or a file server",
  },
  {
    name: "lockup",
    pattern: /watchdog: BUG: (?:soft|hard) lockup/i,
    class: "machine_fault",
    cause: "unclear",
    action: "note",
    meaning: "a processor did not come back from the kernel for long",
  },
  {
    name: "throttled",
    pattern: /temperature (?:is )?above threshold, cpu clock (?:is )?throttled/i,
    class: "thermal",
    cause: "machine",
    action: "note",
    meaning: "a processor is held back by heat",
  },
];
