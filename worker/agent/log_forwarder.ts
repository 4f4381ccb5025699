/** Lines are gathered for so long before they are sent. */
const GATHER_MS = 200;
/** Of each rank, at most so many in one message; the log file has all of them. */
const LINES_COUNT_MAX = 200;

/** Sends the ranks' output on to the controller, gathered, and thinned where a rank floods it. */
export class LogForwarder {
  private readonly send: (batch: { rank: number; lines: string[] }) => void;
  private readonly waiting = new Map<number, { lines: string[]; dropped: number }>();
  private timer: NodeJS.Timeout | null = null;

  constructor(send: (batch: { rank: number; lines: string[] }) => void) {
    this.send = send;
  }

  add(rank: number, lines: readonly string[]): void {
    const batch = this.waiting.get(rank) ?? { lines: [], dropped: 0 };
    this.waiting.set(rank, batch);
    const room = Math.max(0, LINES_COUNT_MAX - batch.lines.length);
    batch.lines.push(...lines.slice(0, room));
    batch.dropped += Math.max(0, lines.length - room);
    this.timer ??= setTimeout(() => this.flush(), GATHER_MS);
  }

  flush(): void {
    if (this.timer) clearTimeout(this.timer);
    this.timer = null;
    for (const [rank, { lines, dropped }] of this.waiting) {
      if (dropped > 0) lines.push(`(${dropped} more lines are in the node's log file only)`);
      this.send({ rank, lines });
    }
    this.waiting.clear();
  }
}
