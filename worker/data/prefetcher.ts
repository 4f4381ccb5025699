import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from "node:worker_threads";
import { GokuError } from "../../job/errors.js";
import type { AssembledPack, PackRequest } from "./assemble_pack.js";
import type { PrefetchReply, PrefetchRequest, PrefetchThreadOptions } from "./prefetch_thread.js";

/** Packs ready or under way; beyond it the oldest that nobody waits for is dropped. */
const PACKS_MAX = 64;

interface Waiter {
  promise: Promise<AssembledPack>;
  resolve: (pack: AssembledPack) => void;
  reject: (error: Error) => void;
}

/**
 * The training thread's end of the prefetch thread. Finished packs wait in the message port and are taken from it without a turn
 * of the event loop, so a pack that is ready is handed out at once even when native code has kept the loop from turning for seconds.
 */
export class Prefetcher {
  private readonly worker: Worker;
  private readonly port: MessagePort;
  private readonly started = new Set<number>(); // oldest first
  private readonly ready = new Map<number, PrefetchReply>();
  private readonly waiters = new Map<number, Waiter>();
  private failure: GokuError | null = null;

  constructor(options: Omit<PrefetchThreadOptions, "port">) {
    const channel = new MessageChannel();
    this.port = channel.port1;
    const workerData: PrefetchThreadOptions = { ...options, port: channel.port2 };
    const entry = new URL("./prefetch_thread.js", import.meta.url);
    this.worker = new Worker(entry, { workerData, transferList: [channel.port2], name: "goku-prefetch" });
    this.port.on("message", (reply: PrefetchReply) => this.receive(reply));
    this.worker.on("error", (error) => this.fail(`the prefetch thread failed (${(error as Error).message})`));
    // neither keeps the process alive by itself: a source that is dropped must not hang its rank
    this.port.unref();
    this.worker.unref();
  }

  /** Begins a pack unless it is under way already; `request` is only made when needed. */
  start(id: number, request: () => PackRequest): void {
    if (this.started.has(id) || this.failure) return;
    this.started.add(id);
    this.send({ kind: "pack", request: request() });
    for (const oldest of this.started) {
      if (this.started.size <= PACKS_MAX) break;
      if (!this.waiters.has(oldest)) this.forget(oldest);
    }
  }

  /** A pack that was started; each is handed out once. */
  async finish(id: number): Promise<AssembledPack> {
    const asked = this.waiters.get(id); // by someone else before: both get the same pack
    for (;;) {
      const arrived = receiveMessageOnPort(this.port) as { message: PrefetchReply } | undefined;
      if (!arrived) break;
      this.receive(arrived.message);
    }
    if (asked) return asked.promise;
    const reply = this.ready.get(id);
    if (reply) {
      this.forget(id);
      return unpack(reply);
    }
    if (this.failure) throw this.failure;
    return this.wait(id);
  }

  private wait(id: number): Promise<AssembledPack> {
    let settle!: Omit<Waiter, "promise">;
    const promise = new Promise<AssembledPack>((resolve, reject) => {
      settle = { resolve, reject };
    });
    this.waiters.set(id, { promise, ...settle });
    this.port.ref();
    this.worker.ref();
    return promise;
  }

  async close(): Promise<void> {
    this.fail("the source was closed");
    const ended = new Promise((resolve) => this.worker.once("exit", resolve));
    this.worker.ref();
    this.send({ kind: "close" });
    await ended;
    this.port.close();
  }

  private send(request: PrefetchRequest): void {
    this.port.postMessage(request);
  }

  private receive(reply: PrefetchReply): void {
    const id = reply.kind === "pack" ? reply.pack.id : reply.id;
    if (!this.started.has(id)) return; // dropped meanwhile
    const waiter = this.waiters.get(id);
    if (!waiter) {
      this.ready.set(id, reply);
      return;
    }
    this.forget(id);
    try {
      waiter.resolve(unpack(reply));
    } catch (error) {
      waiter.reject(error as Error);
    }
  }

  private forget(id: number): void {
    this.started.delete(id);
    this.ready.delete(id);
    this.waiters.delete(id);
    if (this.waiters.size > 0) return;
    this.port.unref();
    this.worker.unref();
  }

  private fail(reason: string): void {
    this.failure ??= new GokuError("INTERNAL", `Cannot prepare packs: ${reason}`);
    for (const { reject } of this.waiters.values()) reject(this.failure);
    this.waiters.clear();
  }
}

function unpack(reply: PrefetchReply): AssembledPack {
  if (reply.kind === "pack") return reply.pack;
  throw new GokuError(reply.code, `Cannot prepare a pack: ${reply.message}`);
}
