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
import { joinAddress } from "../../security/loopback.js";
import { type PeerAccess, peerChannel } from "../peer_channel.js";
import { backoffMs } from "./backoff.js";
import { pause } from "./pause.js";
import { RateLimiter } from "./rate_limiter.js";
import { wireLayout, wireState } from "./wire.js";

/** Between tries of a keeper that does not answer. */
const RETRY = { firstMs: 250, longestMs: 10_000 };
/** Tries in a row after which people hear of it: by then it has been tried for some five seconds. */
const TOLD_ATTEMPTS = 5;
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
  access: PeerAccess;
  /** What this node sends at most. */
  bytesPerSecond: number;
}

export interface ReplicaCallbacks {
  /** The keeper has it whole, or it cannot be sent, since the snapshot itself is damaged or gone. */
  settled(whole: boolean): void;
  /** It cannot be sent, or not yet and for some time; told once. */
  failing(error: GokuError): void;
}

/** For metrics. */
export interface ReplicatorEvents {
  /** A state is whole on another node: what went there for it, and how long that took, with all tries. */
  sent(copy: { bytes: number; seconds: number }): void;
  /** A try has failed and another follows. */
  retried(): void;
}

/**
 * Sends snapshots of this node's ranks to their keepers, chunk by chunk, each checked before it goes. A keeper that does
 * not answer is tried until the generation ends; training goes on meanwhile, with the older copy. Whether it lags is seen
 * from the newest replicated step.
 */
export class Replicator {
  private readonly log: Logger;
  private readonly retry: typeof RETRY;
  private readonly limiter = new RateLimiter();
  private readonly clients = new Map<string, PeerServiceClient>();
  private stop = new AbortController();
  private readonly events: ReplicatorEvents;

  constructor(log: Logger, retry = RETRY, events: ReplicatorEvents = { sent: () => {}, retried: () => {} }) {
    this.log = log;
    this.retry = retry;
    this.events = events;
  }

  /** A generation begins, or the agent ends: what is under way is given up, and nobody hears of it. */
  begin(): void {
    this.stop.abort();
    this.stop = new AbortController();
    for (const client of this.clients.values()) client.close();
    this.clients.clear();
  }

  send(order: ReplicaOrder, { settled, failing }: ReplicaCallbacks): void {
    const { signal } = this.stop;
    this.persistently(order, signal, failing).then(
      (whole) => {
        if (!signal.aborted) settled(whole);
      },
      (error: unknown) => this.log.error(error, "replica"),
    );
  }

  private async persistently(
    order: ReplicaOrder,
    signal: AbortSignal,
    failing: ReplicaCallbacks["failing"],
  ): Promise<boolean> {
    const { rank, state, keeper } = order;
    const begun = performance.now();
    let bytes = 0;
    for (let attempt = 0; !signal.aborted; attempt++) {
      try {
        bytes += await this.attempt(order, signal);
        this.events.sent({ bytes, seconds: (performance.now() - begun) / 1000 });
        return true;
      } catch (thrown) {
        if (signal.aborted) return false;
        const error = toGokuError(thrown, "COMM_PEER_DIED");
        const about = { rank, step: state.step, keeper: keeper.nodeId, code: error.code };
        if (isHopeless(thrown)) {
          this.log.error({ ...about, reason: error.message }, "replica cannot be sent");
          failing(error);
          await pause(HOPELESS_MS, signal);
          return false;
        }
        if (attempt === 0) this.log.warn({ ...about, reason: error.message }, "replica is sent again");
        this.events.retried();
        if (attempt + 1 === TOLD_ATTEMPTS) failing(error);
        await pause(backoffMs(attempt, Math.random(), this.retry), signal);
      }
    }
    return false;
  }

  /** Returns the bytes that were sent. */
  private async attempt(order: ReplicaOrder, signal: AbortSignal): Promise<number> {
    const head = readHead(order);
    const reader = await SnapshotReader.open(order.slotPath);
    let stream: KeeperStream | null = null;
    let bytes = 0;
    try {
      signal.throwIfAborted(); // from here on the stream hears of it
      stream = new KeeperStream(this.clientOf(order).replicate(), signal);
      await stream.write({ message: { $case: "offer", value: offerOf(order, head) } });
      let answer = await stream.answer();
      if (!answer.whole) bytes = await this.sendChunks(order, { reader, stream, from: answer.chunks });
      while (!answer.whole) answer = await stream.answer();
      return bytes;
    } finally {
      stream?.close();
      await reader.close();
    }
  }

  private async sendChunks(
    { bytesPerSecond }: ReplicaOrder,
    sending: { reader: SnapshotReader; stream: KeeperStream; from: number },
  ): Promise<number> {
    const { reader, stream, from } = sending;
    const count = reader.header.checksums.length - from;
    const rest = Array.from({ length: count }, (_, i) => from + i);
    let sent = 0;
    for await (const { index, bytes } of reader.chunks(rest)) {
      const waitMs = this.limiter.delayMs(bytes.byteLength, bytesPerSecond, performance.now());
      if (waitMs > 0) await stream.rest(waitMs);
      // A copy: the reader's memory is used again while this is on its way.
      await stream.write({ message: { $case: "chunk", value: { index, data: Buffer.from(bytes) } } });
      sent += bytes.byteLength;
    }
    reader.requireUnchanged();
    return sent;
  }

  private clientOf({ keeper: { host, port }, access }: ReplicaOrder): PeerServiceClient {
    const address = joinAddress(host, port);
    let client = this.clients.get(address);
    if (client === undefined) {
      client = new PeerServiceClient(address, ...peerChannel(access));
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
    if (this.failure === null) this.silence.refresh();
    this.wake();
  }

  private fail(error: Error): void {
    this.failure ??= error;
    this.wake();
  }
}
