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
