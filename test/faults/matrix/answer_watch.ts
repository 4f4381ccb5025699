import { setTimeout } from "node:timers/promises";

const ASK_MS = 250;
/** On a busy machine an answer takes long; who stands still never gives one. */
const ANSWER_MS = 3_000;

/** Asks again and again, as a person would who waits for an answer. */
export class AnswerWatch {
  /** When nobody answered: from the first question that got none to the next that did. */
  readonly gaps: { fromMs: number; toMs: number }[] = [];
  readonly #ask: () => Promise<unknown>;
  #closed = false;

  constructor(ask: () => Promise<unknown>) {
    this.#ask = ask;
  }

  start(): void {
    void this.#run();
  }

  close(): void {
    this.#closed = true;
  }

  async #run(): Promise<void> {
    for (let missedMs: number | null = null; !this.#closed; await setTimeout(ASK_MS)) {
      const askedMs = Date.now();
      const answered = await Promise.race([
        this.#ask().then(
          () => true,
          () => false,
        ),
        setTimeout(ANSWER_MS, false),
      ]);
      if (!answered) missedMs ??= askedMs;
      else if (missedMs !== null) {
        this.gaps.push({ fromMs: missedMs, toMs: Date.now() });
        missedMs = null;
      }
    }
  }
}
