import { GokuError } from "../job/errors.js";
import { Layout } from "../job/layout.js";
import { flatUnits } from "../job/sharding.js";
import { indexExtents, type StoredExtent } from "./content.js";
import type { CommitRecord, WriterManifest } from "./manifest.js";
import { mapLimit, READS_AT_ONCE } from "./map_limit.js";
import { checkpointFolder } from "./names.js";
import { planDigest, type ReadStep, readPlan, WriterIndex } from "./plan.js";
import { readCommittedWriter } from "./records.js";
import type { Interval } from "./state.js";
import type { Storage } from "./storage/storage.js";

/**
 * Where the elements of a committed checkpoint lie. The write plan tells which writers hold what is wanted, and only their
 * manifests are read, once each: a rank of thousands reads a few. Where the record's plan is none that this version
 * derives, every manifest is read at once.
 */
export class Extents {
  readonly #storage: Storage;
  readonly #record: CommitRecord;
  readonly #counts: ReadonlyMap<string, number>;
  readonly #index: WriterIndex | null;
  readonly #manifests = new Map<number, Promise<WriterManifest>>();
  #all: Map<string, StoredExtent[]> | null = null;

  private constructor(storage: Storage, record: CommitRecord) {
    this.#storage = storage;
    this.#record = record;
    this.#counts = new Map(
      record.parameters.flatMap(({ name, count }) => record.kinds.map((kind) => [`${kind}/${name}`, count])),
    );
    const units = flatUnits(record.parameters);
    const layout = new Layout(record.layout);
    this.#index = planDigest(units, layout) === record.plan ? new WriterIndex(units, layout) : null;
  }

  /** Throws CHECKPOINT_CORRUPT. */
  static async open(storage: Storage, record: CommitRecord): Promise<Extents> {
    const extents = new Extents(storage, record);
    if (extents.#index === null) extents.#all = await extents.#readAll();
    return extents;
  }

  /** The write plan of the layout that saved is one that this version derives. */
  get planned(): boolean {
    return this.#index !== null;
  }

  /** Elements of a tensor; CHECKPOINT_MISMATCH where the checkpoint has none of that name. */
  countOf(tensor: string): number {
    const count = this.#counts.get(tensor);
    if (count !== undefined) return count;
    throw new GokuError(
      "CHECKPOINT_MISMATCH",
      `Cannot read ${tensor} of ${this.#storage.uri}/${this.#folder}: it holds no such tensor`,
    );
  }

  /**
   * Which parts of which extents make up the wanted elements, in order. Throws CHECKPOINT_CORRUPT where a manifest is not
   * what was committed, RangeError for elements that the tensor does not have.
   */
  async plan(wanted: Interval): Promise<ReadStep<StoredExtent>[]> {
    const { tensor, start, length } = wanted;
    if (start + length > this.countOf(tensor))
      throw new RangeError(`Extents: ${tensor} has no elements ${start} to ${start + length}`);
    const steps = readPlan(wanted, this.#all?.get(tensor) ?? (await this.#find(wanted)));
    if (steps !== null) return steps;
    throw new GokuError(
      "CHECKPOINT_CORRUPT",
      `Cannot read ${this.#folder}: its writers do not hold elements ${start} to ${start + length} of ${tensor}`,
    );
  }

  async #find(wanted: Interval): Promise<StoredExtent[]> {
    const writers = this.#index!.writersOf(wanted);
    const manifests = await mapLimit(writers, READS_AT_ONCE, (writer) => this.#manifest(writer));
    return manifests
      .flatMap(({ file, intervals }) =>
        file === null
          ? []
          : intervals.filter(({ tensor }) => tensor === wanted.tensor).map((held) => ({ ...held, file })),
      )
      .sort((a, b) => a.start - b.start);
  }

  async #readAll(): Promise<Map<string, StoredExtent[]>> {
    const { writers } = this.#record;
    const manifests = await mapLimit(writers, READS_AT_ONCE, (_, writer) => this.#manifest(writer));
    return indexExtents(this.#record, manifests);
  }

  #manifest(writer: number): Promise<WriterManifest> {
    let manifest = this.#manifests.get(writer);
    if (manifest === undefined) {
      manifest = readCommittedWriter(this.#storage, this.#record, writer);
      this.#manifests.set(writer, manifest);
    }
    return manifest;
  }

  get #folder(): string {
    return checkpointFolder(this.#record.meta.state.step);
  }
}
