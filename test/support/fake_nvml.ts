import { existsSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { libraryPath, standInLibrary, withEnvironment } from "./stand_in_library.js";

export type FakeValues = Readonly<Record<string, string | number>>;

const scratch = mkdtempSync(path.join(tmpdir(), "goku-fake-nvml-"));
process.once("exit", () => rmSync(scratch, { recursive: true, force: true }));

/** Why tests of a machine without NVIDIA's driver cannot run here; false: they can. */
export const nvidiaDriver = existsSync("/dev/nvidiactl") && "this machine has NVIDIA's driver";

/** GPUs that are not there: what `tell` writes, the library answers from then on (fake_nvml.cc says in which words). */
export class FakeNvml {
  private static count = 0;
  private readonly file = path.join(scratch, `gpus-${FakeNvml.count++}`);
  private readonly folder: string;
  private values: FakeValues = {};

  /** @param flags of the compiler, for example -DOLD_LIBRARY */
  constructor(values: FakeValues, flags: readonly string[] = []) {
    this.folder = standInLibrary({ source: "fake_nvml.cc", file: "libnvidia-ml.so.1", flags });
    this.tell(values);
  }

  /** For processes that are to find it. */
  get env(): { LD_LIBRARY_PATH: string; GOKU_FAKE_NVML: string } {
    return { LD_LIBRARY_PATH: libraryPath(this.folder), GOKU_FAKE_NVML: this.file };
  }

  /** Changes what is named; a value "" takes it away. */
  tell(values: FakeValues): void {
    this.values = { ...this.values, ...values };
    const lines = Object.entries(this.values).flatMap(([key, value]) =>
      value === "" ? [] : `${key} ${value}\n`,
    );
    writeFileSync(`${this.file}.new`, lines.join(""));
    renameSync(`${this.file}.new`, this.file); // never half of it
  }
}

/** While `body` runs, processes that are started from here find it. */
export async function withNvml<T>(fake: FakeNvml, body: () => Promise<T>): Promise<T> {
  return withEnvironment(fake.env, body);
}

export const uuidOf = (index: number) => `GPU-0000000${index}-aaaa-bbbb-cccc-00000000000${index}`;

/** A healthy GPU that tells everything, at a place of NVML's list. */
export function healthyGpu(index: number): FakeValues {
  const values: FakeValues = {
    UUID: uuidOf(index),
    Name: "NVIDIA H100 80GB HBM3",
    PciInfo: `00000000:${3 + index}B:00.0`,
    "Temperature.0": 54,
    "FieldValues.82": 61,
    "ClockInfo.1": 1980,
    "ClockInfo.2": 2619,
    ClocksEventReasons: 4,
    PowerUsage: 612_345,
    EnforcedPowerLimit: 700_000,
    MemoryInfo: `${80 * 2 ** 30} ${50 * 2 ** 30} ${30 * 2 ** 30}`,
    UtilizationRates: "97 61",
    "TotalEccErrors.0": 3,
    "TotalEccErrors.1": 0,
    RemappedRows: "1 2 0 0",
    "NvLinkState.0": 1,
    "NvLinkState.1": 1,
    ...links(0, { replays: 0, recoveries: 0, flits: 10, data: 2 }),
    ...links(1, { replays: 1, recoveries: 0, flits: 20, data: 0 }),
  };
  return Object.fromEntries(Object.entries(values).map(([key, value]) => [`${index}.${key}`, value]));
}

function links(link: number, errors: { replays: number; recoveries: number; flits: number; data: number }) {
  const counts = [errors.replays, errors.recoveries, errors.flits, errors.data];
  return Object.fromEntries(counts.map((count, kind) => [`NvLinkErrorCounter.${link}.${kind}`, count]));
}
