import { access, readdir, readFile } from "node:fs/promises";
import path from "node:path";
import type { CounterName, LinkName } from "../../../job/signals/counters.js";

/** What the machine's counters and links say at one time. */
export interface MachineReading {
  /** Of each device that has the counter, for example mc0. */
  counts: { counter: CounterName; device: string; value: number }[];
  links: { link: LinkName; device: string; up: boolean }[];
}

/** Reads what there is under a root, such as `/`; what is missing, or cannot be read, is left out. */
export async function readMachine(root: string): Promise<MachineReading> {
  const reading: MachineReading = { counts: [], links: [] };
  await readMemory(root, reading);
  await readInterfaces(root, reading);
  await readInfiniband(root, reading);
  await readProcessors(root, reading);
  return reading;
}

async function readMemory(root: string, reading: MachineReading): Promise<void> {
  const folder = path.join(root, "sys/devices/system/edac/mc");
  for (const device of await names(folder, /^mc\d+$/)) {
    const file = (name: string) => path.join(folder, device, name);
    await add(reading, "memory_correctable", device, [file("ce_count")]);
    await add(reading, "memory_uncorrectable", device, [file("ue_count")]);
  }
}

/** Those of a card: bridges, tunnels and the like come and go with whoever makes them. */
async function readInterfaces(root: string, reading: MachineReading): Promise<void> {
  const folder = path.join(root, "sys/class/net");
  for (const device of await names(folder, /./)) {
    const at = path.join(folder, device);
    if (!(await exists(path.join(at, "device")))) continue;
    const statistics = (name: string) => path.join(at, "statistics", name);
    await add(reading, "net_errors", device, [statistics("rx_errors"), statistics("tx_errors")]);
    await add(reading, "net_dropped", device, [statistics("rx_dropped"), statistics("tx_dropped")]);
    await add(reading, "link_flaps", device, [path.join(at, "carrier_changes")]);
    const state = await text(path.join(at, "operstate"));
    if (state === "up" || state === "down" || state === "lowerlayerdown")
      reading.links.push({ link: "link_down", device, up: state === "up" });
  }
}

async function readInfiniband(root: string, reading: MachineReading): Promise<void> {
  const folder = path.join(root, "sys/class/infiniband");
  for (const card of await names(folder, /./))
    for (const port of await names(path.join(folder, card, "ports"), /^\d+$/)) {
      const at = path.join(folder, card, "ports", port);
      const device = `${card}/${port}`;
      const counter = (name: string) => [path.join(at, "counters", name)];
      await add(reading, "ib_symbol_errors", device, counter("symbol_error"));
      await add(reading, "ib_receive_errors", device, counter("port_rcv_errors"));
      await add(reading, "ib_recoveries", device, counter("link_error_recovery"));
      await add(reading, "ib_link_downed", device, counter("link_downed"));
      const state = await text(path.join(at, "state")); // for example "4: ACTIVE"
      if (state !== null) reading.links.push({ link: "ib_down", device, up: state.includes("ACTIVE") });
    }
}

async function readProcessors(root: string, reading: MachineReading): Promise<void> {
  const folder = path.join(root, "sys/devices/system/cpu");
  for (const device of await names(folder, /^cpu\d+$/))
    await add(reading, "thermal_throttles", device, [
      path.join(folder, device, "thermal_throttle/core_throttle_count"),
    ]);
}

async function add(
  { counts }: MachineReading,
  counter: CounterName,
  device: string,
  files: readonly string[],
): Promise<void> {
  let sum: number | null = null;
  for (const file of files) {
    const value = Number((await text(file)) ?? Number.NaN);
    if (Number.isFinite(value)) sum = (sum ?? 0) + value;
  }
  if (sum !== null) counts.push({ counter, device, value: sum });
}

async function names(folder: string, wanted: RegExp): Promise<string[]> {
  const all = await readdir(folder).catch(() => []);
  return all.filter((name) => wanted.test(name)).sort();
}

async function text(file: string): Promise<string | null> {
  return await readFile(file, "latin1").then(
    (content) => content.trim(),
    () => null, // an interface that is down does not tell its carrier
  );
}

async function exists(file: string): Promise<boolean> {
  return await access(file).then(
    () => true,
    () => false,
  );
}
