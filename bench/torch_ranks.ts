/** Processes of a PyTorch program of bench/peers that work together, each told the same command, line by line. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import path from "node:path";
import { createInterface } from "node:readline";
import { sourcePath } from "./torch_peer.js";

export class TorchRanks {
  private readonly children: ChildProcess[];
  private readonly lines: AsyncIterator<string>[];

  private constructor(children: ChildProcess[]) {
    this.children = children;
    this.lines = children.map((child) => createInterface({ input: child.stdout! })[Symbol.asyncIterator]());
  }

  /**
   * Starts bench/peers/`program` RANK WORLD `rest`... on `count` ranks, and waits until each has said a line; null where
   * torch cannot be imported.
   */
  static async start(program: string, count: number, rest: readonly string[]): Promise<TorchRanks | null> {
    if (spawnSync("python3", ["-c", "import torch"], { stdio: "ignore" }).status !== 0) return null;
    const script = sourcePath(path.join("bench/peers", program));
    const ranks = new TorchRanks(
      Array.from({ length: count }, (_, rank) =>
        spawn("python3", [script, String(rank), String(count), ...rest], {
          stdio: ["pipe", "pipe", "inherit"],
          env: { ...process.env, OMP_NUM_THREADS: "1", PYTHONWARNINGS: "ignore" },
        }),
      ),
    );
    await ranks.read();
    return ranks;
  }

  /** Seconds of the slowest, for a command that each answers with its seconds. */
  async measure(command: string): Promise<number> {
    for (const child of this.children) child.stdin?.write(`${command}\n`);
    return Math.max(...(await this.read()).map(Number));
  }

  close(): void {
    for (const child of this.children) child.kill("SIGKILL");
  }

  private read(): Promise<string[]> {
    return Promise.all(
      this.lines.map(async (lines) => {
        const { value, done } = await lines.next();
        if (done) throw new Error("Cannot measure: a PyTorch process ended early");
        return value as string;
      }),
    );
  }
}
