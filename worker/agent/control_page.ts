import { closeSync, openSync, writeSync } from "node:fs";
import { ERRORS, type ErrorCode } from "../../job/errors.js";
import { CONTROL, PAGE_BYTES } from "../pages.js";

/** Creates a page file of zeros, ready to be mapped by a rank. */
export function createPage(path: string): void {
  const file = openSync(path, "w", 0o600);
  writeSync(file, new Uint8Array(PAGE_BYTES));
  closeSync(file);
}

/** The agent's hand on one rank: words in shared memory that the rank's native threads watch while they wait. */
export class ControlPage {
  private readonly file: number;
  private aborted = 0n;

  constructor(path: string) {
    createPage(path);
    this.file = openSync(path, "r+");
  }

  /** Ends every collective of this generation and older ones; `peer` is the world rank to blame, null: none. */
  abort(generation: bigint, cause: { peer: number | null; code: ErrorCode }): void {
    if (generation <= this.aborted) return;
    this.aborted = generation;
    const words = new DataView(new ArrayBuffer(8));
    words.setInt32(0, cause.peer ?? -1, true);
    words.setUint32(CONTROL.abortReason - CONTROL.abortPeer, ERRORS[cause.code].number, true);
    writeSync(this.file, new Uint8Array(words.buffer), 0, 8, CONTROL.abortPeer);
    const word = new DataView(new ArrayBuffer(8));
    word.setBigUint64(0, generation, true);
    // Last: whoever sees it finds the cause already there.
    writeSync(this.file, new Uint8Array(word.buffer), 0, 8, CONTROL.abortGeneration);
  }

  close(): void {
    closeSync(this.file);
  }
}
