import { bar, bytes, duration, type Output } from "./output.js";

/** As process.stderr is. */
interface Terminal {
  isTTY?: boolean;
  write(text: string): unknown;
}

interface BytesMoved {
  bytesDone: number;
  bytesTotal: number;
}

/** Between two drawings; a terminal that is written more often is only slower. */
const DRAW_MS = 100;

/** A bar with bytes, rate and time left on the terminal of a person; nothing where a program reads. */
export class ByteProgress {
  readonly #live: boolean;
  readonly #terminal: Terminal;
  readonly #now: () => number;
  readonly #startedMs: number;
  #drawnMs = Number.NEGATIVE_INFINITY;

  /** @param now in milliseconds */
  constructor(output: Output, terminal: Terminal = process.stderr, now = () => performance.now()) {
    this.#live = terminal.isTTY === true && !output.json;
    this.#terminal = terminal;
    this.#now = now;
    this.#startedMs = now();
  }

  #update = ({ bytesDone, bytesTotal }: BytesMoved): void => {
    const nowMs = this.#now();
    if (!this.#live || (nowMs - this.#drawnMs < DRAW_MS && bytesDone < bytesTotal)) return;
    this.#drawnMs = nowMs;
    const rate = bytesDone / Math.max(1e-3, (nowMs - this.#startedMs) / 1000);
    const left = rate > 0 ? (bytesTotal - bytesDone) / rate : null;
    const moved = `${bytes(bytesDone)} of ${bytes(bytesTotal)}  ${bytes(Math.round(rate))}/s  ETA ${duration(left)}`;
    this.#terminal.write(`\r\x1b[2K${bar(bytesDone / Math.max(1, bytesTotal))} ${moved}`);
  };

  /** Runs `work` under the bar, which goes whatever comes of it: an error stands on a line of its own. */
  async during<T>(work: (update: (moved: BytesMoved) => void) => Promise<T>): Promise<T> {
    try {
      return await work(this.#update);
    } finally {
      if (this.#live) this.#terminal.write("\r\x1b[2K");
    }
  }
}
