import { execFileSync } from "node:child_process";
import { accessSync, constants, existsSync, readdirSync, statfsSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import type { Command } from "commander";
import { loadNative } from "../../worker/engine/load_native.js";
import { globals } from "../context.js";
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
    .description("check this machine: Node, native addon, ffmpeg, shared memory, leftovers of dead jobs")
    .option("--state-dir <dir>", "shared-memory folder to look at", "/dev/shm/goku")
    .action((options: { stateDir: string }, command: Command) => {
      const findings = [
        nodeVersion(),
        nativeAddon(),
        ffmpeg(),
        sharedMemory(),
        leftovers(options.stateDir),
        fileLimit(),
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
      advice: enough ? "" : "snapshots need 3 times a rank's training state; mount a larger tmpfs",
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

/** Rank folders whose agent is gone: the next agent of that node adopts them, a person may remove them. */
function leftovers(stateDir: string): Finding {
  const folders = existsSync(stateDir) ? readdirSync(stateDir) : [];
  return {
    check: "snapshots",
    state: "ok",
    found: folders.length === 0 ? "none" : `${folders.length} node folders in ${stateDir}`,
    advice:
      folders.length === 0
        ? ""
        : `kept for agents that return; when no job runs: rm -r ${path.join(stateDir, "*")}`,
  };
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
