import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import path from "node:path";
import { freePorts } from "./etcd_servers.js";
import { until } from "./until.js";

const PROGRAMS = ["munged", "slurmctld", "slurmd", "sbatch"];

/** Why Slurm cannot be run here; null: it can. */
export function slurmMissing(): string | null {
  if (process.getuid?.() !== 0) return "Slurm's daemons want root here";
  try {
    for (const program of PROGRAMS) execFileSync("sh", ["-c", `command -v ${program}`]);
    return null;
  } catch {
    return "no Slurm: apt-get install slurm-wlm munge";
  }
}

/** Slurm on this machine: its controller and one node of two CPUs, with a munge of their own. */
export class Slurm {
  readonly folder: string;
  readonly #env: NodeJS.ProcessEnv;
  readonly #daemons: ChildProcess[] = [];

  private constructor(folder: string) {
    this.folder = folder;
    this.#env = { ...process.env, SLURM_CONF: path.join(folder, "slurm.conf") };
  }

  static async start(): Promise<Slurm> {
    const slurm = new Slurm(mkdtempSync(path.join(tmpdir(), "goku-slurm-")));
    const at = (name: string) => path.join(slurm.folder, name);
    for (const name of ["munge", "state", "spool"]) mkdirSync(at(name), { mode: 0o700 });
    writeFileSync(at("munge/key"), randomBytes(1024), { mode: 0o600 });
    const [ctldPort, slurmdPort] = await freePorts(2);
    const settings = {
      ...{
        ClusterName: "goku",
        SlurmctldHost: `${hostname()}(127.0.0.1)`,
        SlurmUser: "root",
        SlurmdUser: "root",
      },
      ...{ AuthType: "auth/munge", AuthInfo: `socket=${at("munge/socket")}` },
      ...{
        ProctrackType: "proctrack/linuxproc",
        TaskPlugin: "task/none",
        MpiDefault: "none",
        ReturnToService: 2,
      },
      ...{ SlurmctldPort: ctldPort, SlurmdPort: slurmdPort, SelectType: "select/cons_tres" },
      ...{ StateSaveLocation: at("state"), SlurmdSpoolDir: at("spool") },
      ...{ SlurmctldPidFile: at("ctld.pid"), SlurmdPidFile: at("slurmd.pid") },
      ...{ SlurmctldLogFile: at("ctld.log"), SlurmdLogFile: at("slurmd.log") },
    };
    const lines = Object.entries(settings).map(([key, value]) => `${key}=${value}`);
    lines.push(`NodeName=${hostname()} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN`);
    lines.push("PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP");
    writeFileSync(at("slurm.conf"), `${lines.join("\n")}\n`);
    const munge = ["key-file=key", "socket=socket", "pid-file=pid", "log-file=log", "seed-file=seed"];
    const mungeArgs = munge.map((pair) => `--${pair.replace("=", `=${at("munge")}/`)}`);
    slurm.#run("munged", ["--foreground", "--force", ...mungeArgs]);
    slurm.#run("slurmctld", ["-D"]);
    slurm.#run("slurmd", ["-D"]);
    await until(() => slurm.ask("sinfo", ["-h", "-o", "%T"]).trim() === "idle");
    return slurm;
  }

  #run(program: string, args: string[]): void {
    this.#daemons.push(spawn(program, args, { env: this.#env, stdio: "ignore" }));
  }

  /** What a command of Slurm prints; empty where it fails. */
  ask(program: string, args: string[], env: NodeJS.ProcessEnv = {}): string {
    try {
      return execFileSync(program, args, {
        env: { ...this.#env, ...env },
        encoding: "utf8",
        stdio: ["ignore", "pipe", "ignore"],
      });
    } catch {
      return "";
    }
  }

  async stop(): Promise<void> {
    for (const line of this.ask("squeue", ["-h", "-o", "%i"]).split("\n"))
      if (line) this.ask("scancel", [line]);
    await until(() => this.ask("squeue", ["-h"]) === "");
    for (const daemon of this.#daemons.reverse()) {
      daemon.kill("SIGTERM");
      await until(() => daemon.exitCode !== null || daemon.signalCode !== null);
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}
