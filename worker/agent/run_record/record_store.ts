/** Where the record of a run is kept: lines for programs and people, events for TensorBoard. */
export interface RecordStore {
  /** Steps are gathered for so long before they are written. */
  readonly gatherMs: number;
  /**
   * Takes the record over for a generation that goes on behind the step `keep`: what stands there of later steps is dropped,
   * since they are computed again. Returns the last step that is there; 0: none.
   */
  open(keep: number): Promise<number>;
  /** Durable when it resolves. After an error the record must be opened again. */
  append(batch: RecordBatch): Promise<void>;
  /** Frees what it holds open. */
  close(): Promise<void>;
}

export interface RecordBatch {
  /** Of as many steps as `lines`. */
  lines: readonly string[];
  events: readonly Uint8Array[];
  firstStep: number;
  /** Unix seconds of the first. */
  seconds: number;
}

export const LINES_NAME = "metrics.jsonl";
export const EVENTS_FOLDER = "tensorboard";

/**
 * Name of an event file. TensorBoard reads a folder's files in the order of their names, and wants the newest last, whatever
 * the clock of the node that writes it.
 */
export function eventsName(options: {
  seconds: number;
  generation: string;
  node: string;
  /** Of the files that are there. */
  present: readonly string[];
}): string {
  const { seconds, generation, node, present } = options;
  const before = present.map((name) => Number(/tfevents\.(\d{10})\./.exec(name)?.[1] ?? 0));
  const at = Math.max(Math.floor(seconds), ...before.map((each) => each + 1));
  return `events.out.tfevents.${String(at).padStart(10, "0")}.${node}.${generation}`;
}
