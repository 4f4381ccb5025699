import { readFileSync, rmSync, statSync } from "node:fs";
import { type Beat, readBeat } from "./read_beat.js";

/** Between two looks at the file. */
const LOOK_MS = 200;

/** Watches a file that a program touches or writes: every change of it that can be read is a heartbeat. */
export class HeartbeatFile {
  private readonly path: string;
  private readonly onBeat: (beat: Beat) => void;
  private timer: NodeJS.Timeout | null = null;
  private seen = "";

  /** What an earlier program has left there is removed. */
  constructor(path: string, onBeat: (beat: Beat) => void) {
    this.path = path;
    this.onBeat = onBeat;
    rmSync(path, { force: true });
  }

  start(): void {
    this.timer ??= setInterval(() => this.look(), LOOK_MS);
  }

  /** Looks a last time. */
  stop(): void {
    if (this.timer) clearInterval(this.timer);
    this.timer = null;
    this.look();
  }

  private look(): void {
    const stat = statSync(this.path, { bigint: true, throwIfNoEntry: false });
    if (!stat?.isFile()) return;
    // The size, too: a file that was emptied and written again within one tick of the clock shows one time for both.
    const found = `${stat.ino} ${stat.mtimeNs} ${stat.size}`;
    if (found === this.seen) return;
    let beat: Beat | null = null;
    try {
      beat = readBeat(readFileSync(this.path, "utf8"));
    } catch {
      // Replaced meanwhile: the next look finds the new one.
    }
    if (beat === null) return; // being written: its end is another change
    this.seen = found;
    this.onBeat(beat);
  }
}
