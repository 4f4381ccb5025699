/** How a message is written to one session; `done` may never be called where that session ends first. */
type Write = (done: () => void) => void;

/**
 * Large messages to very many sessions at about the same time go out a few at a time, as fast as they are taken, so that
 * not all their copies are in memory at once. A session whose turn has not come has its later messages wait with it.
 */
export class PacedWrites {
  readonly #largeMax: number;
  readonly #underWay = new Set<number>();
  readonly #waiting = new Map<number, { write: Write; large: boolean }[]>();

  /** @param largeMax large messages that may be under way at once */
  constructor(largeMax: number) {
    this.#largeMax = largeMax;
  }

  write(session: number, large: boolean, write: Write): void {
    const queue = this.#waiting.get(session);
    if (queue !== undefined) queue.push({ write, large });
    else if (!large) write(() => {});
    else if (this.#mayStart()) this.#start(session, write);
    else this.#waiting.set(session, [{ write, large }]);
  }

  /** That session has ended: nothing of it waits, nothing waits for it. */
  forget(session: number): void {
    this.#waiting.delete(session);
    this.#done(session);
  }

  #mayStart(): boolean {
    return this.#underWay.size < this.#largeMax;
  }

  #start(session: number, write: Write): void {
    this.#underWay.add(session);
    write(() => this.#done(session));
  }

  #done(session: number): void {
    if (!this.#underWay.delete(session)) return;
    for (const [next, queue] of this.#waiting) {
      if (!this.#mayStart()) return;
      if (this.#drain(next, queue)) this.#waiting.delete(next);
    }
  }

  /** Writes in order until a large one has to wait; false: it does. */
  #drain(session: number, queue: { write: Write; large: boolean }[]): boolean {
    for (let at = 0; at < queue.length; at++) {
      const { write, large } = queue[at]!;
      if (!large) write(() => {});
      else if (this.#mayStart()) this.#start(session, write);
      else {
        queue.splice(0, at);
        return false;
      }
    }
    return true;
  }
}
