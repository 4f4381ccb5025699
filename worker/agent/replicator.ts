import * as grpc from "@grpc/grpc-js";
import type { Logger } from "pino";
import { parseSnapshotHead, readSnapshotHead, SnapshotReader } from "../../checkpoint/snapshot.js";
import { type StateName, stateKey } from "../../checkpoint/state.js";
import {
  PeerServiceClient,
  type ReplicaOffer,
  type ReplicateRequest,
  type ReplicateResponse,
} from "../../gen/goku/v1/peer.pb.js";
import { GokuError, toGokuError } from "../../job/errors.js";
import type { Layout } from "../../job/layout.js";
import { PEER_CHANNEL } from "../peer_channel.js";
import { backoffMs } from "./backoff.js";
import { pause } from "./pause.js";
import { RateLimiter } from "./rate_limiter.js";
import { wireLayout, wireState } from "./wire.js";

/** Between tries of a keeper that does not answer. */
const RETRY = { firstMs: 250, longestMs: 10_000 };
/** After what cannot be sent; the vote gives it up, and chooses the next. */
const HOPELESS_MS = 1_000;
/** A keeper that takes nothing and says nothing for so long has gone. */
const SILENCE_MS = 10_000;

export interface ReplicaOrder {
  jobId: string;
  generation: bigint;
  layout: Layout;
  rank: number;
  state: StateName;
  /** What the keeper must not give up for it. */
  kept: StateName | null;
  slotPath: string;
  keeper: { nodeId: string; host: string; port: number };
  /** What this node sends at most. */
  bytesPerSecond: number;
}

/**
 * Sends snapshots of this node's ranks to their keepers, chunk by chunk, each checked before it goes. A keeper that does
 * not answer is tried until the generation ends; training goes on meanwhile, with the older copy. Whether it lags is seen
 * from the newest replicated step.
 */
export class Replicator {
  private readonly log: Logger;
  private readonly limiter = new RateLimiter();
  private readonly clients = new Map<string, PeerServiceClient>();
  private stop = new AbortController();

  constructor(log: Logger) {
    this.log = log;
  }

  /** A generation begins, or the agent ends: what is under way is given up, and nobody hears of it. */
  begin(): void {
    this.stop.abort();
    this.stop = new AbortController();
    for (const client of this.clients.values()) client.close();
    this.clients.clear();
  }

  /** `settled`: the keeper has it whole, or it cannot be sent, since the snapshot itself is damaged or gone. */
  send(order: ReplicaOrder, settled: (whole: boolean) => void): void {
    const { signal } = this.stop;
    this.persistently(order, signal).then(
      (whole) => {
        if (!signal.aborted) settled(whole);
      },
      (error: unknown) => this.log.error(error, "replica"),
    );
  }

  private async persistently(order: ReplicaOrder, signal: AbortSignal): Promise<boolean> {
    const { rank, state, keeper } = order;
    for (let attempt = 0; !signal.aborted; attempt++) {
      try {
        await this.attempt(order, signal);
        return true;
      } catch (thrown) {
        if (signal.aborted) return false;
        const error = toGokuError(thrown, "COMM_PEER_DIED");
        const about = { rank, step: state.step, keeper: keeper.nodeId, code: error.code };
        if (isHopeless(thrown)) {
          this.log.error({ ...about, reason: error.message }, "replica cannot be sent");
          await pause(HOPELESS_MS, signal);
          return false;
        }
        if (attempt === 0) this.log.warn({ ...about, reason: error.message }, "replica is sent again");
        await pause(backoffMs(attempt, Math.random(), RETRY), signal);
      }
    }
    return false;
  }

  private async attempt(order: ReplicaOrder, signal: AbortSignal): Promise<void> {
    const head = readHead(order);
    const reader = await SnapshotReader.open(order.slotPath);
    let stream: KeeperStream | null = null;
    try {
      signal.throwIfAborted(); // from here on the stream hears of it
      stream = new KeeperStream(this.clientOf(order.keeper).replicate(), signal);
      await stream.write({ message: { $case: "offer", value: offerOf(order, head) } });
      let answer = await stream.answer();
      if (!answer.whole) await this.sendChunks(order, { reader, stream, from: answer.chunks });
      while (!answer.whole) answer = await stream.answer();
    } finally {
      stream?.close();
      await reader.close();
    }
  }

  private async sendChunks(
    { bytesPerSecond }: ReplicaOrder,
    sending: { reader: SnapshotReader; stream: KeeperStream; from: number },
  ): Promise<void> {
    const { reader, stream, from } = sending;
    const count = reader.header.checksums.length - from;
    const rest = Array.from({ length: count }, (_, i) => from + i);
    for await (const { index, bytes } of reader.chunks(rest)) {
      const waitMs = this.limiter.delayMs(bytes.byteLength, bytesPerSecond, performance.now());
      if (waitMs > 0) await stream.rest(waitMs);
      // A copy: the reader's memory is used again while this is on its way.
      await stream.write({ message: { $case: "chunk", value: { index, data: Buffer.from(bytes) } } });
    }
    reader.requireUnchanged();
  }

  private clientOf({ host, port }: ReplicaOrder["keeper"]): PeerServiceClient {
    const address = `${host}:${port}`;
    let client = this.clients.get(address);
    if (client === undefined) {
      client = new PeerServiceClient(address, grpc.credentials.createInsecure(), PEER_CHANNEL);
      this.clients.set(address, client);
    }
    return client;
  }
}

/** The snapshot is damaged or gone here, or the keeper says that what it is sent is wrong. */
function isHopeless(error: unknown): boolean {
  if (error instanceof GokuError) return ["SNAPSHOT_MISSING", "CHECKPOINT_CORRUPT"].includes(error.code);
  const { code } = error as Partial<grpc.ServiceError>;
  return code === grpc.status.INVALID_ARGUMENT || code === grpc.status.INTERNAL;
}

/** The head of the very snapshot that is to be sent; SNAPSHOT_MISSING where the slot holds another one by now. */
function readHead({ slotPath, state, rank }: ReplicaOrder): Buffer {
  const head = readSnapshotHead(slotPath);
  const header = head === null ? null : parseSnapshotHead(slotPath, head);
  if (head !== null && header?.rank === rank && stateKey(header.meta.state) === stateKey(state)) return head;
  throw new GokuError(
    "SNAPSHOT_MISSING",
    `Cannot send step ${state.step} of rank ${rank}: ${slotPath} holds another state by now`,
  );
}

function offerOf({ jobId, generation, rank, layout, state, kept }: ReplicaOrder, head: Buffer): ReplicaOffer {
  return {
    jobId,
    generation,
    rank,
    layout: wireLayout(layout),
    state: wireState(state),
    head,
    kept: kept === null ? undefined : wireState(kept),
  };
}

/** A stream to a keeper whose end, whatever its cause, frees everyone who waits. */
class KeeperStream {
  private readonly call: grpc.ClientDuplexStream<ReplicateRequest, ReplicateResponse>;
  private readonly answers: ReplicateResponse[] = [];
  private failure: Error | null = null;
  private wake: () => void = () => {};
  private silence: NodeJS.Timeout;
  private readonly signal: AbortSignal;
  private readonly cancel = () => this.fail(new Error("the generation ends"));

  constructor(call: grpc.ClientDuplexStream<ReplicateRequest, ReplicateResponse>, signal: AbortSignal) {
    this.call = call;
    this.signal = signal;
    this.silence = this.watch();
    signal.addEventListener("abort", this.cancel);
    call.on("data", (response: ReplicateResponse) => {
      this.answers.push(response);
      this.moved();
    });
    call.on("drain", () => this.moved());
    call.on("error", (error) => this.fail(error));
    call.on("end", () => this.fail(new Error("it ended the stream")));
  }

  /** Waits while the keeper does not read. */
  async write(request: ReplicateRequest): Promise<void> {
    if (this.failure) throw this.failure;
    let drained = this.call.write(request);
    if (drained) {
      this.silence.refresh();
      return;
    }
    this.call.once("drain", () => {
      drained = true;
    });
    while (!drained) await this.next();
  }

  /** Sends nothing for so long, which is no silence of the keeper's. */
  async rest(ms: number): Promise<void> {
    clearTimeout(this.silence);
    await pause(ms, this.signal);
    this.silence = this.watch();
  }

  async answer(): Promise<ReplicateResponse> {
    while (this.answers.length === 0) await this.next();
    return this.answers.shift()!;
  }

  close(): void {
    clearTimeout(this.silence);
    this.signal.removeEventListener("abort", this.cancel);
    this.call.cancel();
  }

  private watch(): NodeJS.Timeout {
    return setTimeout(() => this.fail(new Error(`it took nothing for ${SILENCE_MS / 1000} s`)), SILENCE_MS);
  }

  private async next(): Promise<void> {
    if (this.failure) throw this.failure;
    await new Promise<void>((resolve) => {
      this.wake = resolve;
    });
    // What it said before it ended still counts.
    if (this.failure && this.answers.length === 0) throw this.failure;
  }

  private moved(): void {
    this.silence.refresh();
    this.wake();
  }

  private fail(error: Error): void {
    this.failure ??= error;
    this.wake();
  }
}
