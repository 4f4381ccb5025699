import { type Checkpoint, runsOf, type StoredChunk } from "../../checkpoint/checkpoint.js";
import { type ChunkPlace, LOAD_BUFFERS, LoadPlan, type Wanting } from "../../checkpoint/load_plan.js";
import { mapLimit, READS_AT_ONCE } from "../../checkpoint/map_limit.js";
import { STATE_KINDS, type StateKind } from "../../checkpoint/state.js";
import { GokuError } from "../../job/errors.js";
import type { Layout } from "../../job/layout.js";
import { type FlatUnit, shardPieces } from "../../job/sharding.js";
import type { CommId, Native, Ticket } from "../engine/native.js";
import { Arena, type Tensor } from "../engine/tensor.js";
import { Collectives } from "../parallel/collectives.js";
import type { Groups } from "../parallel/groups.js";
import { generationOver, unlessOver } from "../unless_over.js";
import { differentFacts } from "./verify_groups.js";

export interface LoadOptions {
  native: Native;
  checkpoint: Checkpoint;
  layout: Layout;
  rank: number;
  /** In the order of the model's units, the same on all ranks. */
  shards: readonly LoadedShard[];
  groups: Groups;
  /** What is loaded, the same on all ranks; null: everything. */
  wanting: Wanting;
  /** Kinds of units that this rank takes; of the others it only reads and hands on. */
  takes: (kind: StateKind, unit: string) => boolean;
  /** The generation is over. */
  signal: AbortSignal;
}

/** Where one unit's shard goes. */
export type LoadedShard = { readonly unit: FlatUnit; readonly range: { start: number } } & {
  readonly [kind in StateKind]: Tensor;
};

export interface LoadedBytes {
  /** Of this rank's shards. */
  taken: number;
  /** From storage, by this rank. */
  read: number;
}

/** Elements that end in a tensor of this rank. */
interface Landing {
  kind: StateKind;
  shard: LoadedShard;
  /** Element of the shard. */
  offset: number;
  length: number;
}

/** Asked for at once, where chunks lie side by side: opening a file, or a request to S3, costs about as much as a MiB. */
const RUN_BYTES_MAX = 4 << 20;

/** Reads of one round in flight: storage far away answers late. */
const READS_OF_ROUND = 8;

/** A chunk that this rank reads. */
interface Read {
  chunk: StoredChunk;
  /** Byte in the buffer of the round. */
  at: number;
  /** What it keeps of it, from an element of the chunk on. */
  own: Landing & { from: number };
  /** What it hands to other members of its shard group. */
  sent: { member: number; from: number; length: number }[];
}

/** What one replica's ranks of this shard do in one round. */
class Window {
  readonly reads: Read[] = [];
  /** What others read of it, by member of the shard group; few of them. */
  readonly #received = new Map<number, Landing[]>();
  /** Of the chunks that it reads. */
  bytes = 0;

  receive(member: number, landing: Landing): void {
    const list = this.#received.get(member);
    if (list) list.push(landing);
    else this.#received.set(member, [landing]);
  }

  /** Elements from each member of the shard group. */
  receivedCounts(members: number): Float64Array {
    const counts = new Float64Array(members);
    for (const [member, list] of this.#received) counts[member] = countOf(list);
    return counts;
  }

  get own(): Landing[] {
    return this.reads.map(({ own }) => own);
  }

  /** In the order in which an exchange leaves them. */
  get received(): Landing[] {
    return [...this.#received].sort(([a], [b]) => a - b).flatMap(([, list]) => list);
  }
}

/** A round between its exchange's start and its end. */
interface Flight {
  round: number;
  /** What has landed; null where what this rank reads is in its place already, and nobody sends it more. */
  landed: Tensor | null;
  exchange: { ticket: Ticket; tensors: Tensor[] } | null;
}

/**
 * Loads a checkpoint into the shards of all ranks; all of the world call it together. Every chunk is read from storage and
 * checked by one rank for all (`LoadPlan`), which hands its parts to those of its shard group that need them; then each
 * rank hands what has landed to its replicas. While a round is handed on, the next ones are read. Beside the state a rank
 * holds at most LOAD_MEMORY_BYTES.
 * Throws CHECKPOINT_CORRUPT, CHECKPOINT_MISMATCH, STORAGE_FAILED, COMM_*.
 */
export async function loadCheckpoint(options: LoadOptions): Promise<LoadedBytes> {
  const { native, groups, checkpoint } = options;
  if (differentFacts(native, groups.world, [{ name: "checkpoint", digest: checkpoint.digest }]).length > 0)
    throw new GokuError(
      "STORAGE_NOT_SHARED",
      `Cannot load ${checkpoint.uri}: ranks read different commit records there, mount one and the same folder on all nodes`,
    );
  const load = new Load(options);
  return load.run();
}

class Load {
  private readonly options: LoadOptions;
  private readonly plan: LoadPlan;
  private readonly arena: Arena;
  private readonly collectives: Collectives;
  /** Of the shard group. */
  private readonly index: number;
  private readonly replica: number;
  /** Null: no chunk has parts for two shards. */
  private readonly shardGroup: CommId | null;
  private readonly loaded: LoadedBytes = { taken: 0, read: 0 };
  /** By round, then replica. */
  private windows: Window[][] = [];
  /** Rounds take turns in these. */
  private buffers: Uint8Array[] = [];
  private ended = false;

  constructor(options: LoadOptions) {
    const { native, layout, rank, shards, groups, checkpoint, wanting } = options;
    this.options = options;
    const units = shards.map(({ unit }) => unit);
    checkpoint.requireModel(units.flatMap((unit) => unit.parameters.map(({ spec }) => spec)));
    this.plan = new LoadPlan(units, layout, wanting);
    this.arena = new Arena(native);
    this.collectives = new Collectives(native, groups);
    this.index = rank % layout.shardGroupSize;
    this.replica = layout.coordinates(rank).replica;
    this.shardGroup = checkpoint.hasShardsOf(layout) ? null : groups.shard;
  }

  async run(): Promise<LoadedBytes> {
    const { signal } = this.options;
    try {
      this.windows = await unlessOver(signal, this.planWindows());
      const bytesMost = Math.max(0, ...this.windows.map((window) => window[this.replica]!.bytes));
      this.buffers = Array.from({ length: LOAD_BUFFERS }, () => new Uint8Array(bytesMost));
      const readings = this.buffers.map((_, round) => this.read(round));
      let exchanged: Flight | null = null; // meanwhile others are read and put in their places
      for (const [round, { isShared }] of this.plan.rounds.entries()) {
        await unlessOver(signal, readings.shift()!);
        if (isShared && exchanged !== null) await this.finish(exchanged);
        const flight = this.start(round);
        readings.push(this.read(round + LOAD_BUFFERS));
        if (isShared) exchanged = flight;
        else await this.finish(flight);
      }
      if (exchanged !== null) await this.finish(exchanged);
      return this.loaded;
    } catch (error) {
      this.ended = true;
      this.collectives.abandon();
      throw error;
    } finally {
      this.arena.freeAll();
    }
  }

  /** What concerns this rank, from the manifests of those writers that hold what its shard has. */
  private async planWindows(): Promise<Window[][]> {
    const { layout, rank, shards, checkpoint, wanting } = this.options;
    const windows = this.plan.rounds.map(() =>
      Array.from({ length: layout.dpReplicate }, () => new Window()),
    );
    const wanted = STATE_KINDS.flatMap((kind) =>
      shards
        .filter(({ unit }) => wanting === null || wanting(kind, unit.name).has(this.index))
        .flatMap((shard) => shardPieces([shard.unit], layout, rank).map((piece) => ({ kind, shard, piece }))),
    );
    const chunks = await mapLimit(wanted, READS_AT_ONCE, async ({ kind, piece }) => {
      this.requireGoing();
      const { parameter, start, length } = piece;
      return checkpoint.chunksOf({ tensor: `${kind}/${parameter}`, start, length });
    });
    let missing = 0; // elements that nobody brings; below zero: twice
    for (const [i, { kind, shard, piece }] of wanted.entries()) {
      const first = shard.range.start + piece.shardOffset - piece.start;
      missing += piece.length;
      for (const chunk of chunks[i]!) missing -= this.put(windows, kind, shard, chunk, first);
    }
    if (missing > 0) throw this.corrupt(`its chunks lack ${missing} elements`);
    if (missing < 0) throw this.corrupt(`its chunks hold ${-missing} elements twice`);
    return windows;
  }

  /** `first`: element of the unit where the chunk's parameter begins. Returns how many elements it brings. */
  private put(
    windows: readonly Window[][],
    kind: StateKind,
    shard: LoadedShard,
    chunk: StoredChunk,
    first: number,
  ): number {
    const begin = first + chunk.start;
    const place = this.plan.place({ kind, unit: shard.unit.name, start: begin, end: begin + chunk.length })!;
    if (place.parts.length > 1 && this.shardGroup === null)
      throw this.corrupt(`elements ${begin} of ${kind}/${shard.unit.name} lie in a chunk of two shards`);
    const window = windows[place.round]![place.replica]!;
    const landing = this.landing(place, kind, shard);
    if (place.reader !== this.index) {
      window.receive(place.reader, landing);
      return landing.length;
    }
    const sent = place.parts
      .filter(({ index }) => index !== this.index)
      .map(({ index, start, end }) => ({ member: index, from: start - begin, length: end - start }));
    const from = shard.range.start + landing.offset - begin;
    window.reads.push({ chunk, at: window.bytes, own: { ...landing, from }, sent });
    window.bytes += chunk.bytes;
    return landing.length;
  }

  /** This rank's part: whoever looks at a chunk needs some of it. */
  private landing({ parts }: ChunkPlace, kind: StateKind, shard: LoadedShard): Landing {
    const { start, end } = parts.find(({ index }) => index === this.index)!;
    return { kind, shard, offset: start - shard.range.start, length: end - start };
  }

  private corrupt(what: string): GokuError {
    const { uri } = this.options.checkpoint;
    return new GokuError(
      "CHECKPOINT_CORRUPT",
      `Cannot load ${uri}: ${what}, restore from an older checkpoint`,
    );
  }

  /** Reads and checks what this rank is to read for a round. */
  private read(round: number): Promise<void> {
    const { checkpoint } = this.options;
    const window = this.windows[round]?.[this.replica];
    if (window === undefined) return Promise.resolve();
    const buffer = this.buffers[round % LOAD_BUFFERS]!;
    const reading = mapLimit(runsOf(window.reads, RUN_BYTES_MAX), READS_OF_ROUND, async (run) => {
      this.requireGoing();
      const chunks = run.map(({ chunk }) => chunk);
      const bytes = chunks.reduce((all, chunk) => all + chunk.bytes, 0);
      const { at } = run[0]!;
      await checkpoint.readRun(chunks, buffer.subarray(at, at + bytes));
      this.loaded.read += bytes;
    }).then(() => this.requireGoing());
    reading.catch(() => {}); // told when its round comes
    return reading;
  }

  private requireGoing(): void {
    if (this.ended || this.options.signal.aborted) throw generationOver();
  }

  /** Puts what was read in its place, and begins to hand on what others need. */
  private start(round: number): Flight {
    const { native, layout } = this.options;
    const window = this.windows[round]![this.replica]!;
    const buffer = this.buffers[round % LOAD_BUFFERS]!;
    const replicated = layout.dpReplicate > 1;
    const kept = replicated ? countOf(window.own) : 0;
    const received = countOf(window.received);
    const landed = kept + received > 0 ? this.arena.alloc("f32", kept + received) : null;
    let at = 0;
    for (const { own, at: first } of window.reads) {
      const begin = first + 4 * own.from;
      const bytes = buffer.subarray(begin, begin + 4 * own.length);
      if (replicated) native.tensorWrite(landed!.id, at, bytes);
      else if (this.takes(own)) native.tensorWrite(own.shard[own.kind].id, own.offset, bytes);
      at += own.length;
    }
    if (this.shardGroup === null || !this.plan.rounds[round]!.isShared)
      return { round, landed, exchange: null };
    const sentCounts = new Float64Array(layout.shardGroupSize);
    for (const { sent } of window.reads) for (const { member, length } of sent) sentCounts[member]! += length;
    const input = this.arena.alloc("f32", sum(sentCounts));
    this.pack(window, buffer, sentCounts, input);
    const out = landed === null ? this.arena.alloc("f32", 0) : this.arena.view(landed, kept, received);
    const receivedCounts = window.receivedCounts(layout.shardGroupSize);
    const ticket = this.collectives.started(
      "allToAll",
      native.allToAllStart(this.shardGroup, out.id, receivedCounts, input.id, sentCounts),
    );
    return { round, landed, exchange: { ticket, tensors: [input, out] } };
  }

  /** By member, in the order of the chunks: as they are unpacked. */
  private pack(window: Window, buffer: Uint8Array, counts: Float64Array, into: Tensor): void {
    const next = new Float64Array(counts.length);
    for (let member = 1; member < counts.length; member++)
      next[member] = next[member - 1]! + counts[member - 1]!;
    for (const { at, sent } of window.reads) {
      for (const { member, from, length } of sent) {
        const begin = at + 4 * from;
        this.options.native.tensorWrite(into.id, next[member]!, buffer.subarray(begin, begin + 4 * length));
        next[member]! += length;
      }
    }
  }

  /** Waits for what others hand on, hands it to the replicas, and puts it in its place. */
  private async finish({ round, landed, exchange }: Flight): Promise<void> {
    if (exchange !== null) this.collectives.wait(exchange.ticket);
    for (const tensor of exchange?.tensors ?? []) tensor.free();
    const { replica } = this.options.groups;
    if (replica !== null) return this.share(replica, round, landed);
    this.unpack(landed, this.windows[round]![0]!.received);
  }

  /** One replica's is on its way while that of the one before is put in its place. */
  private async share(replica: CommId, round: number, landed: Tensor | null): Promise<void> {
    const { native } = this.options;
    const flights: { ticket: Ticket; tensor: Tensor; landings: Landing[] }[] = [];
    const settle = (left: number) => {
      while (flights.length > left) {
        const { ticket, tensor, landings } = flights.shift()!;
        this.collectives.wait(ticket);
        this.unpack(tensor, landings);
      }
    };
    for (const [root, window] of this.windows[round]!.entries()) {
      const landings = [...window.own, ...window.received];
      if (landings.length === 0) continue;
      const tensor = root === this.replica ? landed! : this.arena.alloc("f32", countOf(landings));
      const ticket = this.collectives.started(null, native.broadcastStart(replica, tensor.id, root));
      flights.push({ ticket, tensor, landings });
      settle(1);
      await new Promise(setImmediate); // what was read meanwhile is checked, and the next asked for
      this.requireGoing();
    }
    settle(0);
  }

  private unpack(from: Tensor | null, landings: readonly Landing[]): void {
    if (from === null) return;
    let at = 0;
    for (const landing of landings) {
      const { kind, shard, offset, length } = landing;
      if (this.takes(landing))
        this.options.native.copy2d(shard[kind].id, offset, length, from.id, at, length, 1, length);
      at += length;
    }
    from.free();
  }

  private takes({ kind, shard, length }: Landing): boolean {
    const taken = this.options.takes(kind, shard.unit.name);
    if (taken) this.loaded.taken += 4 * length;
    return taken;
  }
}

function countOf(landings: readonly Landing[]): number {
  return landings.reduce((sum, { length }) => sum + length, 0);
}

function sum(numbers: Float64Array): number {
  return numbers.reduce((a, b) => a + b, 0);
}
