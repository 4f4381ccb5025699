import { type ChildProcess, fork } from "node:child_process";
import { entryPoint } from "../../job/entry_points.js";
import type { FromGpuReader, ToGpuReader } from "../gpu_messages.js";

/** A handful of numbers. */
const HEAP_MIB = 32;
/** How long it may take to start on a busy machine. */
const BOOT_MS = 60_000;

/** How long it may be silent. */
export interface GpuLimits {
  /** While the driver opens: ten seconds and more where nothing keeps that of eight GPUs loaded. */
  openMs: number;
  /** While one GPU is read. */
  gpuMs: number;
}
export const GPU_LIMITS: GpuLimits = { openMs: 60_000, gpuMs: 30_000 };

/** What came of a reading. */
export type GpuAnswer =
  | Exclude<FromGpuReader, { kind: "asks" }>
  /** Whoever it asked has not answered for so long, and it was killed. `gpu`: in NVML's order; null: the driver itself. */
  | { kind: "silent"; gpu: number | null; limitMs: number }
  /** The process has gone. */
  | { kind: "ended"; how: string };

/**
 * The process that reads GPUs. One that hangs in the kernel dies when the kernel lets it, minutes later or never: so nobody waits for
 * its end, and it is not on record among the processes whose end the node's next agent waits for. It holds nothing.
 */
export class GpuReader {
  private readonly child: ChildProcess;
  private readonly limits: GpuLimits;
  private answer: ((answer: GpuAnswer) => void) | null = null;
  private deadline: NodeJS.Timeout | null = null;
  /** Whom it asks; undefined: it has not begun. */
  private asked: number | null | undefined = undefined;
  private how: string | null = null;
  private left = false;

  constructor(limits: GpuLimits = GPU_LIMITS) {
    this.limits = limits;
    this.child = fork(entryPoint("gpu_reader"), [], {
      stdio: ["ignore", "ignore", "ignore", "ipc"],
      execArgv: [`--max-old-space-size=${HEAP_MIB}`],
    });
    // Whoever is to wait for it does so by ask().
    this.child.unref();
    this.child.channel?.unref();
    this.child.on("message", (message: FromGpuReader) => this.heard(message));
    this.child.on("error", (error) => {
      if (this.child.pid === undefined) this.ended(`it cannot be started: ${error.message}`);
    });
    this.child.on("exit", (code, signal) =>
      this.ended(signal === null ? `it exited with code ${code}` : `it was ended by ${signal}`),
    );
  }

  /** It was killed, or has ended by itself: it is asked no more. */
  get over(): boolean {
    return this.how !== null;
  }

  /** The kernel has freed it. */
  get gone(): boolean {
    return this.left;
  }

  /** Reads all GPUs; one reading at a time. */
  async ask(): Promise<GpuAnswer> {
    const { how } = this;
    if (how !== null) return { kind: "ended", how };
    return await new Promise((resolve) => {
      this.answer = resolve;
      this.asked = undefined;
      this.wait(BOOT_MS);
      this.child.send({ kind: "read" } satisfies ToGpuReader, () => {}); // a failed send is followed by its exit
    });
  }

  kill(): void {
    this.how ??= "it was ended";
    this.child.kill("SIGKILL");
    this.settle({ kind: "ended", how: this.how });
  }

  private heard(message: FromGpuReader): void {
    if (this.answer === null) return; // it was killed meanwhile
    if (message.kind !== "asks") this.settle(message);
    else {
      this.asked = message.gpu;
      this.wait(message.gpu === null ? this.limits.openMs : this.limits.gpuMs);
    }
  }

  private wait(limitMs: number): void {
    if (this.deadline !== null) clearTimeout(this.deadline);
    this.deadline = setTimeout(() => this.silent(limitMs), limitMs);
  }

  private silent(limitMs: number): void {
    const { asked } = this;
    if (asked === undefined) this.how = `it did not start in ${limitMs / 1000} s`;
    else this.settle({ kind: "silent", gpu: asked, limitMs });
    this.kill();
  }

  private ended(how: string): void {
    this.how ??= how;
    this.left = true;
    this.settle({ kind: "ended", how: this.how });
  }

  private settle(answer: GpuAnswer): void {
    const { answer: resolve } = this;
    this.answer = null;
    if (this.deadline !== null) clearTimeout(this.deadline);
    this.deadline = null;
    resolve?.(answer);
  }
}
