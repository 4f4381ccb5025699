import { rmSync, writeFileSync } from "node:fs";

/** Controllers take over from each other, and are replaced, in much less. */
const AWAY_MS = 60_000;

/**
 * A file that is there while a controller has this node, and for a minute after it lost it: what a kubelet asks for to know
 * whether an agent is of use. One that every controller refuses never has it.
 */
export class JoinedFile {
  readonly #file: string;
  #timer: NodeJS.Timeout | null = null;

  /** Takes away what an agent that was killed has left. */
  constructor(file: string) {
    this.#file = file;
    rmSync(file, { force: true });
  }

  joined(): void {
    this.#disarm();
    writeFileSync(this.#file, "1\n");
  }

  /** Also said of each try that fails: the time runs from the first. */
  lost(): void {
    this.#timer ??= setTimeout(() => rmSync(this.#file, { force: true }), AWAY_MS).unref();
  }

  close(): void {
    this.#disarm();
    rmSync(this.#file, { force: true });
  }

  #disarm(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}
