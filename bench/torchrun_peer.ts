/** bench/peers/recovery_torchrun.py under torchrun, whose ranks are killed as ours are. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createInterface } from "node:readline";
import { sourcePath } from "./torch_peer.js";

export class TorchrunPeer {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #folder: string;
  /** Process of every rank, as the ranks told last. */
  readonly #pids = new Map<number, number>();

  private constructor(child: ChildProcess, folder: string) {
    this.#child = child;
    this.#folder = folder;
    this.#lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
  }

  /** Null where torch cannot be imported. */
  static start(ranks: number): TorchrunPeer | null {
    if (spawnSync("python3", ["-c", "import torch"], { stdio: "ignore" }).status !== 0) return null;
    const folder = mkdtempSync("/dev/shm/goku-torchrun-");
    const script = sourcePath("bench/peers/recovery_torchrun.py");
    const options = ["--standalone", `--nproc-per-node=${ranks}`, "--max-restarts=1000"];
    // It ends, with its ranks, when the measurement does, however that ends.
    const command = [
      "--pdeathsig",
      "TERM",
      "python3",
      "-m",
      "torch.distributed.run",
      ...options,
      script,
      folder,
    ];
    const child = spawn("setpriv", command, {
      stdio: ["ignore", "pipe", "ignore"], // it tells every restart at length
      // Lazy: torch 2.13's eager connections go to the addresses of the attempt before, often until all restarts are used up.
      env: { ...process.env, OMP_NUM_THREADS: "1", PYTHONWARNINGS: "ignore", TORCH_GLOO_LAZY_INIT: "1" },
    });
    return new TorchrunPeer(child, folder);
  }

  /** Waits for so many completed steps. */
  async pass(steps: number): Promise<void> {
    for (let left = steps; left > 0; ) {
      const { value, done } = await this.#lines.next();
      if (done) throw new Error("Cannot measure recovery: torchrun has ended");
      const [, rank, pid] = /^rank (\d+) pid (\d+)$/.exec(value) ?? [];
      if (rank !== undefined) this.#pids.set(Number(rank), Number(pid));
      else if (/^step \d+$/.test(value)) left -= 1;
    }
  }

  /** Kills a rank, which has to have said who it is. Seconds until the ranks that follow complete a step. */
  async kill(rank: number): Promise<number> {
    const before = this.#pids.get(rank)!;
    const begun = performance.now();
    process.kill(before, "SIGKILL");
    while (this.#pids.get(rank) === before) await this.pass(1); // what was printed before it died
    return (performance.now() - begun) / 1_000;
  }

  async close(): Promise<void> {
    const exited = once(this.#child, "exit");
    this.#child.kill("SIGTERM"); // it ends its ranks
    await exited;
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
