import { randomBytes } from "node:crypto";
import { type FileHandle, mkdir, open, readdir, rename, rm } from "node:fs/promises";
import path from "node:path";
import { EVENTS_FOLDER, eventsName, startRecord, versionRecord } from "../../tfevents.js";
import { LINES_NAME, type RecordBatch, type RecordStore } from "./record_store.js";
import { keptLines } from "./step_line.js";

/** A crash of the node takes so much along at most; the controller knows it. */
const GATHER_MS = 1_000;
const COPY_CHARACTERS = 1 << 20;

/**
 * The record in a folder: `metrics.jsonl`, which grows, and `tensorboard/`, with a file for each generation that wrote. Taking
 * over puts a copy in the place of metrics.jsonl: whoever wrote it before and has not heard that he is not to writes into
 * the old file, which has no name any more.
 */
export class FileRecord implements RecordStore {
  readonly gatherMs = GATHER_MS;
  private readonly folder: string;
  private readonly place: { node: string; generation: string };
  private lines: FileHandle | null = null;
  private events: FileHandle | null = null;
  private lastStep = 0;

  constructor(folder: string, place: { node: string; generation: string }) {
    this.folder = path.resolve(folder);
    this.place = place;
  }

  async open(keep: number): Promise<number> {
    await this.close();
    await mkdir(path.join(this.folder, EVENTS_FOLDER), { recursive: true });
    const target = path.join(this.folder, LINES_NAME);
    const copy = path.join(this.folder, `.${LINES_NAME}.${randomBytes(6).toString("hex")}.tmp`);
    const lines = await open(copy, "ax");
    try {
      this.lastStep = await copyLines(target, lines, keep);
      await lines.datasync();
      await rename(copy, target);
    } catch (error) {
      await lines.close();
      await rm(copy, { force: true });
      throw error;
    }
    this.lines = lines;
    return this.lastStep;
  }

  /** Events first: a step that only they have is dropped by TensorBoard when the record is opened again. */
  async append(batch: RecordBatch): Promise<void> {
    this.events ??= await this.beginEvents(batch);
    await this.events.appendFile(Buffer.concat(batch.events));
    await this.events.datasync();
    await this.lines!.appendFile(batch.lines.map((line) => `${line}\n`).join(""));
    await this.lines!.datasync();
  }

  async close(): Promise<void> {
    const open = [this.lines, this.events];
    this.lines = null;
    this.events = null;
    for (const file of open) await file?.close();
  }

  private async beginEvents({ seconds, firstStep }: RecordBatch): Promise<FileHandle> {
    const folder = path.join(this.folder, EVENTS_FOLDER);
    const name = eventsName({ ...this.place, seconds, present: await readdir(folder) });
    const file = await open(path.join(folder, name), "ax");
    await file.appendFile(Buffer.concat([versionRecord(seconds), startRecord(seconds, firstStep)]));
    return file;
  }
}

/** Copies the whole lines up to a step, however many there are, and returns the last one's step. */
async function copyLines(source: string, target: FileHandle, keep: number): Promise<number> {
  const input = await open(source, "r").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return null;
    throw error;
  });
  if (input === null) return 0;
  let last = 0;
  let copied = "";
  for await (const line of input.readLines()) {
    const { text, step } = keptLines(`${line}\n`, keep);
    if (step <= last) break;
    copied += text;
    last = step;
    if (copied.length < COPY_CHARACTERS) continue;
    await target.appendFile(copied);
    copied = "";
  }
  await target.appendFile(copied);
  return last;
}
