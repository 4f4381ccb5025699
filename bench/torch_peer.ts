/** A PyTorch program of bench/peers at the other end of two pipes, to be measured in turn with ours. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

interface TorchAnswer {
  seconds?: number;
  peak_bytes?: number;
}

export class TorchPeer {
  private readonly child: ChildProcess;
  private readonly lines: AsyncIterator<string>;

  private constructor(child: ChildProcess) {
    this.child = child;
    if (child.stdout === null) throw new Error("Cannot measure: the PyTorch process has no output");
    this.lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  }

  /** Starts bench/peers/`program` and gives it `settings`; null where torch cannot be imported. */
  static async start(program: string, settings: { threads: number }): Promise<TorchPeer | null> {
    if (spawnSync("python3", ["-c", "import torch"], { stdio: "ignore" }).status !== 0) return null;
    const child = spawn("python3", [sourcePath(path.join("bench/peers", program))], {
      stdio: ["pipe", "pipe", "inherit"],
      env: { ...process.env, OMP_NUM_THREADS: String(settings.threads), PYTHONWARNINGS: "ignore" },
    });
    const peer = new TorchPeer(child);
    await peer.ask(JSON.stringify(settings));
    return peer;
  }

  /** Sends one command and returns the seconds it answers. */
  async measure(command: string): Promise<number> {
    const { seconds } = await this.ask(command);
    if (seconds === undefined) throw new Error(`Cannot measure: PyTorch gave no time for ${command}`);
    return seconds;
  }

  /** Most resident memory so far; of programs that know the command. */
  async peakBytes(): Promise<number> {
    const { peak_bytes: bytes } = await this.ask("peak");
    if (bytes === undefined) throw new Error("Cannot measure: PyTorch gave no peak memory");
    return bytes;
  }

  close(): void {
    this.child.kill("SIGKILL");
  }

  private async ask(line: string): Promise<TorchAnswer> {
    this.child.stdin?.write(`${line}\n`);
    const { value, done } = await this.lines.next();
    if (done) throw new Error("Cannot measure: the PyTorch process ended early");
    return JSON.parse(value as string) as TorchAnswer;
  }
}

/** A file of the source tree, from wherever the compiled module runs. */
export function sourcePath(relative: string): string {
  let folder = path.dirname(fileURLToPath(import.meta.url));
  while (!existsSync(path.join(folder, relative)) && folder !== path.dirname(folder))
    folder = path.dirname(folder);
  return path.join(folder, relative);
}
