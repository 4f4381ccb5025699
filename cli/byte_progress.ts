import { bar, bytes, duration, type Output } from "./output.js";

interface BytesMoved {
  bytesDone: number;
  bytesTotal: number;
}

/** Between two drawings; a terminal that is written more often is only slower. */
const DRAW_MS = 100;

/** A bar with bytes, rate and time left on the terminal of a person; nothing where a program reads. */
export class ByteProgress {
  readonly #live: boolean;
  readonly #started = performance.now();
  #drawnMs = Number.NEGATIVE_INFINITY;

  constructor(output: Output) {
    this.#live = process.stderr.isTTY === true && !output.json;
  }

  #update = ({ bytesDone, bytesTotal }: BytesMoved): void => {
    const nowMs = performance.now();
    if (!this.#live || (nowMs - this.#drawnMs < DRAW_MS && bytesDone < bytesTotal)) return;
    this.#drawnMs = nowMs;
    const rate = bytesDone / Math.max(1e-3, (nowMs - this.#started) / 1000);
    const left = rate > 0 ? (bytesTotal - bytesDone) / rate : null;
    const moved = `${bytes(bytesDone)} of ${bytes(bytesTotal)}  ${bytes(Math.round(rate))}/s  ETA ${duration(left)}`;
    process.stderr.write(`\r\x1b[2K${bar(bytesDone / Math.max(1, bytesTotal))} ${moved}`);
  };

  /** Runs `work` under the bar, which goes whatever comes of it: an error stands on a line of its own. */
  async during<T>(work: (update: (moved: BytesMoved) => void) => Promise<T>): Promise<T> {
    try {
      return await work(this.#update);
    } finally {
      if (this.#live) process.stderr.write("\r\x1b[2K");
    }
  }
}
