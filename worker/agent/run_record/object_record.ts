import type { Storage } from "../../../checkpoint/storage/storage.js";
import { EVENTS_FOLDER, eventsName, startRecord, versionRecord } from "../../tfevents.js";
import type { RecordBatch, RecordStore } from "./record_store.js";
import { keptLines } from "./step_line.js";

/** A request each; what is not written when a node goes, the controller knows. */
const GATHER_MS = 10_000;
/** Steps of one object: it is written again whole for each batch. */
const PART_STEPS = 1_000;
/** More than a part can have. */
const PART_BYTES_MAX = 16 << 20;
const LINES_FOLDER = "metrics";
const PART = /^metrics\/(\d+)-(\d+)\.jsonl$/;

/**
 * The record in an object store, where nothing can be appended: `metrics/<first step>-<generation>.jsonl`, to be read in the
 * order of their names, and `tensorboard/`, in parts of a thousand steps.
 */
export class ObjectRecord implements RecordStore {
  readonly gatherMs = GATHER_MS;
  private readonly storage: Storage;
  private readonly place: { node: string; generation: string };
  private part: { linesKey: string; eventsKey: string; lines: string[]; events: Uint8Array[] } | null = null;
  /** The first file of this generation says that its steps supersede what stands there. */
  private hasStarted = false;

  constructor(storage: Storage, place: { node: string; generation: string }) {
    this.storage = storage;
    this.place = place;
  }

  async open(keep: number): Promise<number> {
    this.part = null;
    this.hasStarted = false;
    const parts = (await this.storage.list(`${LINES_FOLDER}/`)).filter(({ key }) => PART.test(key));
    for (const { key } of parts.reverse()) {
      const whole = Buffer.from(await this.storage.readFile(key, PART_BYTES_MAX)).toString();
      const { text, step } = keptLines(whole, keep);
      if (text === "") await this.storage.delete([key]);
      else if (text !== whole) await this.storage.writeFile(key, [Buffer.from(text)]);
      if (step > 0) return step;
    }
    return 0;
  }

  async append(batch: RecordBatch): Promise<void> {
    if (this.part === null || this.part.lines.length >= PART_STEPS) this.part = await this.begin(batch);
    const { part } = this;
    part.lines.push(...batch.lines);
    part.events.push(...batch.events);
    await this.storage.writeFile(part.eventsKey, [Buffer.concat(part.events)]);
    await this.storage.writeFile(part.linesKey, [
      Buffer.from(part.lines.map((line) => `${line}\n`).join("")),
    ]);
  }

  async close(): Promise<void> {
    this.part = null;
  }

  private async begin({ firstStep, seconds }: RecordBatch) {
    const { generation } = this.place;
    const present = (await this.storage.list(`${EVENTS_FOLDER}/`)).map(({ key }) => key);
    const name = eventsName({ ...this.place, seconds, present });
    const number = (value: number | string) => String(value).padStart(10, "0");
    const events = [versionRecord(seconds), ...(this.hasStarted ? [] : [startRecord(seconds, firstStep)])];
    this.hasStarted = true;
    return {
      linesKey: `${LINES_FOLDER}/${number(firstStep)}-${number(generation)}.jsonl`,
      eventsKey: `${EVENTS_FOLDER}/${name}`,
      lines: [] as string[],
      events,
    };
  }
}
