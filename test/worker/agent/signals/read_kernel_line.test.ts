import assert from "node:assert/strict";
import { test } from "node:test";
import { readKernelLine } from "../../../../worker/agent/signals/read_kernel_line.js";

type Row = [line: string, kind: string | null, device: string, pid: number | null];

/** Lines as kernels and NVIDIA's driver write them. */
const LINES: Row[] = [
  [
    "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
    "xid.79",
    "0000:3b:00",
    null,
  ],
  ["NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.", "xid.79", "0000:3b:00", null],
  ["NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.", "kernel.gpu_lost", "0000:3b:00.0", null],
  [
    "NVRM: Xid (PCI:0000:18:00): 31, pid=4242, name=python3, Ch 00000010, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_0 faulted @ 0x7f1a_0c000000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_READ",
    "xid.31",
    "0000:18:00",
    4242,
  ],
  [
    "NVRM: Xid (PCI:0000:9d:00): 119, pid=1653, name=nvidia-smi, Timeout after 45s of waiting for RPC response from GPU0 GSP! Expected function 76 (GSP_RM_CONTROL) (0x20801702 0x8).",
    "xid.119",
    "0000:9d:00",
    1653,
  ],
  [
    "NVRM: Xid (0000:03:00): 13, Graphics SM Warp Exception on (GPC 0, TPC 1): Illegal Instruction Encoding",
    "xid.13",
    "0000:03:00",
    null,
  ],
  [
    "NVRM: Xid (PCI:0000:ca:00): 94, pid='12345', name=python, Contained: SM (0x1). RST: No, D-RST: No",
    "xid.94",
    "0000:ca:00",
    12345,
  ],
  [
    "NVRM: Xid (PCI:0000:ca:00): 63, Row Remapper: New row marked for remapping, reset gpu to activate.",
    "xid.63",
    "0000:ca:00",
    null,
  ],
  ["NVRM: Xid (PCI:0000:ca:00): 777, something new", "xid.other", "0000:ca:00", null],
  ["NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.54.15", null, "", null],
  [
    "Out of memory: Killed process 12345 (python3) total-vm:98765432kB, anon-rss:65432100kB, file-rss:0kB, shmem-rss:1024kB, UID:0 pgtables:192340kB oom_score_adj:0",
    "kernel.oom_kill",
    "",
    12345,
  ],
  [
    "Memory cgroup out of memory: Killed process 77 (node) total-vm:1kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:1kB oom_score_adj:985",
    "kernel.oom_kill",
    "",
    77,
  ],
  [
    "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=kubepods,mems_allowed=0-1,task=node,pid=77,uid=0",
    null,
    "",
    null,
  ],
  [
    "EDAC MC0: 1 CE memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0 (channel:1 slot:0 page:0x10a36c offset:0xb40 grain:32 syndrome:0x0)",
    "kernel.memory_correctable",
    "MC0",
    null,
  ],
  [
    "EDAC MC1: 1 UE memory read error on CPU_SrcID#1_MC#0_Chan#0_DIMM#1",
    "kernel.memory_uncorrectable",
    "MC1",
    null,
  ],
  [
    "Memory failure: 0x2a6f11: recovery action for dirty LRU page: Recovered",
    "kernel.memory_uncorrectable",
    "",
    null,
  ],
  ["mce: [Hardware Error]: Machine check events logged", "kernel.machine_check", "", null],
  [
    "mce: [Hardware Error]: CPU 3: Machine Check: 0 Bank 7: cc00008000010091",
    "kernel.machine_check",
    "",
    null,
  ],
  [
    "mce: [Hardware Error]: CPU 3: Machine Check Exception: 5 Bank 7: be00000000800400",
    "kernel.hardware_error",
    "",
    null,
  ],
  ["{1}[Hardware Error]: event severity: recoverable", "kernel.hardware_error", "", null],
  ["{1}[Hardware Error]: event severity: corrected", "kernel.machine_check", "", null],
  [
    "pcieport 0000:5d:00.0: AER: Uncorrected (Fatal) error received: 0000:5e:00.0",
    "kernel.pcie_uncorrected",
    "0000:5d:00.0",
    null,
  ],
  [
    "nvidia 0000:3b:00.0: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer, (Requester ID)",
    "kernel.pcie_uncorrected",
    "0000:3b:00.0",
    null,
  ],
  ["pcieport 0000:5d:00.0: AER: Corrected error received: 0000:5e:00.0", null, "", null],
  [
    "nvme nvme0: controller is down; will reset: CSTS=0xffffffff, PCI_STATUS=0x10",
    "kernel.nvme_down",
    "nvme0",
    null,
  ],
  [
    "blk_update_request: I/O error, dev sda, sector 250069552 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 0",
    "kernel.disk_error",
    "sda",
    null,
  ],
  [
    "critical medium error, dev sdb, sector 10 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2",
    "kernel.disk_error",
    "sdb",
    null,
  ],
  [
    "EXT4-fs error (device nvme0n1p2): ext4_find_entry:1455: inode #2: comm ls: reading directory lblock 0",
    "kernel.file_system",
    "nvme0n1p2",
    null,
  ],
  ["EXT4-fs (nvme0n1p2): Remounting filesystem read-only", "kernel.file_system_down", "nvme0n1p2", null],
  [
    'XFS (nvme1n1): metadata I/O error in "xfs_imap_to_bp+0x5c/0xa0 [xfs]" at daddr 0x40 len 32 error 5',
    "kernel.file_system_down",
    "nvme1n1",
    null,
  ],
  [
    "XFS (nvme1n1): Log I/O Error (0x2) detected at xlog_ioend_work. Shutting down filesystem.",
    "kernel.file_system_down",
    "nvme1n1",
    null,
  ],
  ["XFS (nvme1n1): Ending clean mount", null, "", null],
  ["nfs: server filer-3 not responding, still trying", "kernel.nfs", "filer-3", null],
  ["NETDEV WATCHDOG: eth0 (mlx5_core): transmit queue 3 timed out", "kernel.network_watchdog", "eth0", null],
  [
    "mlx5_core 0000:ca:00.0 eth0: NETDEV WATCHDOG: CPU: 12: transmit queue 0 timed out 5376 ms",
    "kernel.network_watchdog",
    "",
    null,
  ],
  [
    "mlx5_core 0000:ca:00.0: poll_health:825:(pid 0): device's health compromised - reached miss count",
    "kernel.network_health",
    "0000:ca:00.0",
    null,
  ],
  ["INFO: task python3:4242 blocked for more than 122 seconds.", "kernel.hung_task", "", 4242],
  ["watchdog: BUG: soft lockup - CPU#12 stuck for 22s! [python3:4242]", "kernel.lockup", "", null],
  [
    "CPU12: Core temperature is above threshold, cpu clock is throttled (total events = 1)",
    "kernel.throttled",
    "",
    null,
  ],
  ["usb 1-1: new high-speed USB device number 2 using xhci_hcd", null, "", null],
];

const record = (line: string, priority = 4) => `${priority},1339,5140900,-;${line}`;

test("readKernelLine(): Xids, kills for memory, memory, disks, network cards and buses", () => {
  const found = LINES.map(([line]): Row => {
    const sign = readKernelLine(record(line));
    return [line, sign?.kind ?? null, sign?.device ?? "", sign?.pid ?? null];
  });
  assert.deepEqual(found, LINES);
});

test("readKernelLine(): what is not the kernel's own, or more of an earlier record, says nothing", () => {
  const [xid] = LINES[0]!;
  assert.equal(readKernelLine(record(xid, 12)), null, "written by a user: facility 1");
  assert.equal(readKernelLine(` ${xid}`), null);
  assert.equal(readKernelLine(xid), null);
  assert.notEqual(readKernelLine(record(xid, 0)), null);
});
