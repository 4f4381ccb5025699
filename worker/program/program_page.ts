import { closeSync, openSync, writeSync } from "node:fs";
import { PAGE_BYTES, PROGRESS } from "../pages.js";
import { Progress, type ProgressUpdate } from "../progress.js";

/** The progress page of a rank that needs no native code: written through the file system, as its agent reads it. */
export class ProgramPage {
  private readonly file: number;
  private readonly bytes = new Uint8Array(PAGE_BYTES);
  private readonly progress = new Progress(this.bytes);

  constructor(path: string) {
    this.file = openSync(path, "r+");
  }

  set(update: ProgressUpdate): void {
    this.progress.set(update);
    writeSync(this.file, this.bytes, 0, PROGRESS.collectiveGroupName, 0);
  }

  close(): void {
    closeSync(this.file);
  }
}
