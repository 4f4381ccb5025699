import type { Logger } from "pino";
import { localFolder, openStorage } from "../../../checkpoint/storage/storage.js";
import type { StepCompleted } from "../../../gen/goku/v1/agent.pb.js";
import { toGokuError } from "../../../job/errors.js";
import { scalarsRecord } from "../../tfevents.js";
import { FileRecord } from "./file_record.js";
import { ObjectRecord } from "./object_record.js";
import type { RecordStore } from "./record_store.js";
import { lineScalars, stepLine } from "./step_line.js";

/** Steps that are kept for storage that takes none; then the oldest go, and the record has a hole. */
const PENDING_MAX = 16_384;
/** Steps remembered for a record that another node began. */
const RECENT_MAX = 4_096;
/** Between tries of storage that fails: this, doubling. */
const RETRY_MS = { first: 1_000, longest: 60_000 };

/** The generation whose rank 0 is here. */
export interface RecordedRun {
  jobId: string;
  /** Of the job's checkpoints. */
  uri: string;
  generation: bigint;
  worldSize: number;
  /** What the controller was told of the job's last steps. */
  recent: readonly StepCompleted[];
}

export interface RunRecordOptions {
  node: string;
  log: Logger;
  /** Of one rank; null: not known. */
  peakFlops: number | null;
  /** A write has failed, and is tried again. */
  failed: () => void;
  /** Tests put doubles here. */
  openStore?: (run: RecordedRun) => RecordStore;
}

/** The record of one generation, while its rank 0 is here. */
interface Writing {
  run: RecordedRun;
  store: RecordStore;
  isOpen: boolean;
  pending: StepCompleted[];
  /** Of the job, told by rank 0 or by the controller, each step as told last. */
  recent: Map<bigint, StepCompleted>;
  failures: number;
}

/**
 * Writes the record of a run beside its checkpoints: metrics.jsonl and TensorBoard's events, each step once, in order,
 * whatever becomes of nodes, controllers and generations. Only the agent of rank 0 writes; it takes the record over with the
 * first step of its generation, drops the steps that are computed again, and fills in what the node before it took along
 * from what the controller was told. Storage that fails holds nobody up: steps wait here.
 */
export class RunRecord {
  private readonly options: RunRecordOptions;
  private current: Writing | null = null;
  private timer: NodeJS.Timeout | null = null;
  private work: Promise<void> = Promise.resolve();

  constructor(options: RunRecordOptions) {
    this.options = options;
  }

  /** A generation has its places; null: rank 0 is elsewhere, or there is no record. What was told so far is written first. */
  begin(run: RecordedRun | null): void {
    const before = this.current;
    if (run !== null && before?.run.jobId === run.jobId && before.run.generation >= run.generation) return;
    void this.flush();
    if (before !== null)
      this.work = this.work
        .then(() => before.store.close())
        .catch((error: unknown) => this.failed(before, error));
    this.current = run && this.writingOf(run, before);
  }

  /** Rank 0 has completed a step. */
  add(step: StepCompleted): void {
    const { current } = this;
    if (current === null) return;
    remember(current.recent, step);
    if (step.generation !== current.run.generation) return;
    current.pending.push(step);
    if (current.pending.length > PENDING_MAX) current.pending.shift();
    this.schedule(current.store.gatherMs);
  }

  /** Resolves when what was told so far is written, or could not be. */
  flush(): Promise<void> {
    const { current } = this;
    if (current !== null) this.work = this.work.then(() => this.write(current));
    return this.work;
  }

  async close(): Promise<void> {
    this.begin(null);
    await this.work;
    if (this.timer !== null) clearTimeout(this.timer);
  }

  private writingOf(run: RecordedRun, before: Writing | null): Writing {
    const openStore = this.options.openStore ?? ((each: RecordedRun) => this.openStore(each));
    const recent = new Map(before?.run.jobId === run.jobId ? before.recent : []);
    for (const step of run.recent) remember(recent, step);
    return { run, store: openStore(run), isOpen: false, pending: [], recent, failures: 0 };
  }

  private openStore({ uri, generation }: RecordedRun): RecordStore {
    const place = { node: this.options.node, generation: String(generation) };
    const folder = localFolder(uri);
    return folder === null ? new ObjectRecord(openStorage(uri), place) : new FileRecord(folder, place);
  }

  private schedule(ms: number): void {
    if (this.timer !== null) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      void this.flush();
    }, ms);
    this.timer.unref(); // close() writes what waits
  }

  private async write(writing: Writing): Promise<void> {
    // Taken out first: while they are written others come, and the oldest of those may have to go.
    const steps = writing.pending;
    writing.pending = [];
    const first = steps[0];
    if (first === undefined) return;
    try {
      if (!writing.isOpen) {
        const last = await writing.store.open(Number(first.step) - 1);
        steps.unshift(...missing(writing.recent, last, Number(first.step)));
        writing.isOpen = true;
      }
      await writing.store.append(this.batch(steps, writing.run));
      writing.failures = 0;
    } catch (thrown) {
      writing.pending = [...steps, ...writing.pending].slice(-PENDING_MAX);
      writing.isOpen = false;
      this.failed(writing, thrown);
    }
  }

  private batch(steps: readonly StepCompleted[], run: RecordedRun) {
    const { peakFlops } = this.options;
    const lines = steps.map((step) => stepLine(step, peakFlops === null ? null : peakFlops * run.worldSize));
    return {
      lines: lines.map((line) => JSON.stringify(line)),
      events: lines.map((line) => scalarsRecord(line.time, line.step, lineScalars(line))),
      firstStep: lines[0]!.step,
      seconds: lines[0]!.time,
    };
  }

  private failed(writing: Writing, thrown: unknown): void {
    const { code, message: reason } = toGokuError(thrown, "STORAGE_FAILED");
    this.options.failed();
    const waitMs = Math.min(RETRY_MS.longest, RETRY_MS.first * 2 ** writing.failures);
    const text = "record of the run: a write failed and is tried again; training goes on";
    if (writing.failures === 0) this.options.log.warn({ code, reason, waitMs }, text);
    writing.failures += 1;
    this.schedule(waitMs);
  }
}

function remember(recent: Map<bigint, StepCompleted>, step: StepCompleted): void {
  const known = recent.get(step.step);
  if (known !== undefined && known.generation > step.generation) return;
  recent.delete(step.step);
  recent.set(step.step, step);
  while (recent.size > RECENT_MAX) recent.delete(recent.keys().next().value!);
}

/** Steps between what stands there and the first of this generation. */
function missing(recent: Map<bigint, StepCompleted>, last: number, first: number): StepCompleted[] {
  return [...recent.values()]
    .filter(({ step }) => Number(step) > last && Number(step) < first)
    .sort((a, b) => Number(a.step - b.step));
}
