import { execFileSync } from "node:child_process";
import { accessSync, constants, readdirSync, statfsSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import type { Command } from "commander";
import { KernelLog } from "../../worker/agent/signals/kernel_log.js";
import { findDevices } from "../../worker/device/find_devices.js";
import { GpuReader } from "../../worker/device/gpu_reader.js";
import { loadNative } from "../../worker/engine/load_native.js";
import type { GpuReading } from "../../worker/engine/native.js";
import { globals } from "../context.js";
import { type NodeFolder, nodeFolders, removeNodeFolder } from "../node_folders.js";
import { bytes, show, table } from "../output.js";

interface Finding {
  check: string;
  state: "ok" | "warning" | "problem";
  found: string;
  /** What to do; empty when ok. */
  advice: string;
}

/** Looks at everything a node needs and says what to do about what is missing. */
export function addDoctorCommand(program: Command): void {
  program
    .command("doctor")
    .description(
      "check this machine: Node, native addon, GPUs, ffmpeg, shared memory, leftovers of dead jobs, what agents can watch",
    )
    .option("--state-dir <dir>", "shared-memory folder to look at", "/dev/shm/goku")
    .option("--clean", "free the memory of nodes whose agent and ranks are all gone")
    .addHelpText("after", "\nExample:\n  gokuctl doctor --clean")
    .action(async (options: { stateDir: string; clean?: boolean }, command: Command) => {
      const findings = [
        nodeVersion(),
        nativeAddon(),
        await cudaDevices(),
        await gpuTelemetry(),
        ffmpeg(),
        sharedMemory(),
        snapshots(options.stateDir, options.clean ?? false),
        fileLimit(),
        kernelLog(),
      ];
      show(globals(command), { findings }, () =>
        table(
          ["CHECK", "STATE", "FOUND", "WHAT TO DO"],
          findings.map((f) => [f.check, f.state, f.found, f.advice]),
        ),
      );
      if (findings.some((f) => f.state === "problem")) process.exitCode = 1;
    });
}

function nodeVersion(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  const good = major > 20 || (major === 20 && minor >= 19);
  return {
    check: "Node",
    state: good ? "ok" : "problem",
    found: process.versions.node,
    advice: good ? "" : "install Node 20.19 or newer",
  };
}

function nativeAddon(): Finding {
  try {
    const info = loadNative().cpuInfo();
    const bf16 = info.bf16Native ? "bf16 in hardware" : "bf16 computed in fp32";
    return {
      check: "native addon",
      state: "ok",
      found: `cpu, ${info.isa}, ${info.threads} threads, ${bf16}`,
      advice: "",
    };
  } catch (error) {
    return { check: "native addon", state: "problem", found: (error as Error).message, advice: "make build" };
  }
}

/** A machine without a GPU lacks nothing; one whose GPU cannot be used does. */
async function cudaDevices(): Promise<Finding> {
  const { devices, why } = await findDevices();
  const names = devices.map(({ name, memoryBytes }) => `${name} (${bytes(memoryBytes)})`);
  if (names.length > 0) return { check: "CUDA devices", state: "ok", found: names.join(", "), advice: "" };
  const advice = hasGpu() ? "docs/cuda.md" : "";
  return { check: "CUDA devices", state: advice === "" ? "ok" : "warning", found: `none: ${why}`, advice };
}

function hasGpu(): boolean {
  return readdirSync("/dev").some((file) => /^nvidia\d+$/.test(file));
}

/** What an agent here would read of GPUs, and which of them is in trouble at present. */
async function gpuTelemetry(): Promise<Finding> {
  const reader = new GpuReader();
  const answer = await reader.ask();
  reader.kill();
  const finding = (good: boolean, found: string): Finding => ({
    check: "GPU telemetry",
    state: good ? "ok" : "warning",
    found,
    advice: good ? "" : "docs/hardware-signals.md",
  });
  switch (answer.kind) {
    case "missing":
      return finding(!hasGpu(), "no libnvidia-ml.so.1, which comes with NVIDIA's driver");
    case "refused":
      return finding(false, answer.why);
    case "ended":
      return finding(false, `the process that reads GPUs: ${answer.how}`);
    case "silent": {
      const whom = answer.gpu === null ? "the driver" : `GPU ${answer.gpu}`;
      return finding(false, `${whom} has not answered for ${answer.limitMs / 1000} s`);
    }
    case "read": {
      const bad = answer.gpus.flatMap((gpu, index) => (gpu === null ? [] : troubleOf(gpu, `GPU ${index}`)));
      const count = answer.gpus.filter((gpu) => gpu !== null).length;
      return finding(bad.length === 0, [`NVML tells of ${count} GPUs`, ...bad].join("; "));
    }
  }
}

function troubleOf({ lost, uuid, remapPending, remapFailed }: GpuReading, name: string): string[] {
  const who = uuid === null ? name : `${name} (${uuid})`;
  if (lost) return [`${who} cannot be reached or must be reset`];
  if (remapFailed) return [`${who} has a bad row of memory that could not be replaced`];
  return remapPending ? [`${who} has a bad row of memory and must be reset`] : [];
}

function ffmpeg(): Finding {
  try {
    const version = execFileSync("ffmpeg", ["-version"], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
    return {
      check: "ffmpeg",
      state: "ok",
      found: /version (\S+)/.exec(version)?.[1] ?? "present",
      advice: "",
    };
  } catch {
    return {
      check: "ffmpeg",
      state: "warning",
      found: "not found",
      advice: "apt-get install ffmpeg, or videos cannot be read",
    };
  }
}

function sharedMemory(): Finding {
  try {
    accessSync("/dev/shm", constants.W_OK);
    const { bavail, bsize } = statfsSync("/dev/shm");
    const free = bavail * bsize;
    const enough = free >= 256 * 1024 * 1024;
    return {
      check: "/dev/shm",
      state: enough ? "ok" : "warning",
      found: `${bytes(free)} free of ${bytes(os.totalmem())} memory`,
      advice: enough ? "" : "gokuctl plan says what a job's snapshots need; mount a larger tmpfs",
    };
  } catch (error) {
    return {
      check: "/dev/shm",
      state: "problem",
      found: (error as Error).message,
      advice: "mount a tmpfs there",
    };
  }
}

/**
 * Memory of nodes. That of an agent which was killed is adopted when it is started again under its name, so it is freed
 * only when asked; that of living processes never.
 */
function snapshots(stateDir: string, clean: boolean): Finding {
  const nodes = nodeFolders(stateDir);
  const living = nodes.filter((node) => node.owner !== null);
  const orphans = nodes.filter((node) => node.owner === null);
  const removed = clean ? orphans.filter((node) => removeNodeFolder(node.path)) : [];
  const said = [`${living.length} nodes alive`];
  const left = orphans.length - removed.length;
  if (left > 0)
    said.push(
      `${left} without a living process (${total(orphans.filter((node) => !removed.includes(node)))})`,
    );
  if (removed.length > 0)
    said.push(`removed ${removed.map((node) => node.path).join(", ")} (${total(removed)})`);
  return {
    check: "snapshots",
    state: left > 0 ? "warning" : "ok",
    found: said.join(", "),
    advice: left > 0 ? "gokuctl doctor --clean frees them, unless their agents are to be started again" : "",
  };
}

function total(nodes: readonly NodeFolder[]): string {
  return bytes(nodes.reduce((sum, node) => sum + node.bytes, 0));
}

/** What an agent here would see of faults of GPUs, memory and disks. */
function kernelLog(): Finding {
  const file = path.join(process.env.GOKU_HOST_ROOT ?? "/", "dev/kmsg");
  const check = "kernel log";
  try {
    new KernelLog(file).close();
    return { check, state: "ok", found: `${file} can be read`, advice: "" };
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const advice =
      "agents do not see faults that the kernel tells (docs/hardware-signals.md): give them CAP_SYSLOG";
    return { check, state: "warning", found: `${file} cannot be read: ${code ?? message}`, advice };
  }
}

function fileLimit(): Finding {
  const limit = execFileSync("sh", ["-c", "ulimit -n"], { encoding: "utf8" }).trim();
  const good = limit === "unlimited" || Number(limit) >= 1024;
  return {
    check: "open files",
    state: good ? "ok" : "warning",
    found: limit,
    advice: good ? "" : "raise ulimit -n to 1024 or more",
  };
}
