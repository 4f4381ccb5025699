import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { readMachine } from "../../../../worker/agent/signals/read_counters.js";

const root = mkdtempSync(path.join(tmpdir(), "goku-machine-"));
after(() => rmSync(root, { recursive: true }));

function put(files: Record<string, string | number>): void {
  for (const [name, content] of Object.entries(files)) {
    const file = path.join(root, "sys", name);
    mkdirSync(path.dirname(file), { recursive: true });
    writeFileSync(file, `${content}\n`);
  }
}

test("readMachine(): a machine without any of it has nothing to tell", async () => {
  assert.deepEqual(await readMachine(path.join(root, "none")), { counts: [], links: [] });
});

test("readMachine(): memory, interfaces of cards, InfiniBand and processors; what cannot be read is left out", async () => {
  put({
    "devices/system/edac/mc/mc0/ce_count": 12,
    "devices/system/edac/mc/mc0/ue_count": 0,
    "devices/system/edac/mc/power/control": "auto",
    "class/net/eth0/device/vendor": "0x15b3",
    "class/net/eth0/statistics/rx_errors": 3,
    "class/net/eth0/statistics/tx_errors": 4,
    "class/net/eth0/statistics/rx_dropped": 5,
    "class/net/eth0/operstate": "up",
    "class/net/eth0/carrier_changes": 2,
    "class/net/docker0/statistics/rx_errors": 9,
    "class/net/docker0/operstate": "down",
    "class/infiniband/mlx5_0/ports/1/counters/symbol_error": 6,
    "class/infiniband/mlx5_0/ports/1/counters/link_downed": 1,
    "class/infiniband/mlx5_0/ports/1/counters/link_error_recovery": "N/A (no PMA)",
    "class/infiniband/mlx5_0/ports/1/state": "4: ACTIVE",
    "class/infiniband/mlx5_1/ports/1/state": "1: DOWN",
    "devices/system/cpu/cpu3/thermal_throttle/core_throttle_count": 8,
    "devices/system/cpu/cpufreq/boost": 1,
  });
  assert.deepEqual(await readMachine(root), {
    counts: [
      { counter: "memory_correctable", device: "mc0", value: 12 },
      { counter: "memory_uncorrectable", device: "mc0", value: 0 },
      { counter: "net_errors", device: "eth0", value: 7 },
      { counter: "net_dropped", device: "eth0", value: 5 },
      { counter: "link_flaps", device: "eth0", value: 2 },
      { counter: "ib_symbol_errors", device: "mlx5_0/1", value: 6 },
      { counter: "ib_link_downed", device: "mlx5_0/1", value: 1 },
      { counter: "thermal_throttles", device: "cpu3", value: 8 },
    ],
    links: [
      { link: "link_down", device: "eth0", up: true },
      { link: "ib_down", device: "mlx5_0/1", up: true },
      { link: "ib_down", device: "mlx5_1/1", up: false },
    ],
  });
});
