import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from "node:worker_threads";
import { entryPoint } from "../../job/entry_points.js";
import { GokuError } from "../../job/errors.js";
import type { AssembledPack, PackRequest } from "./assemble_pack.js";
import type { PrefetchReply, PrefetchRequest, PrefetchThreadOptions } from "./prefetch_thread.js";

/** A pack ready or under way. */
interface Flight {
  /** Of this very request: a pack may be dropped and asked for again while the thread still works on it. */
  id: number;
  reply: PrefetchReply | null;
  /** Null: nobody waits for it yet. */
  waiter: Waiter | null;
}

interface Waiter {
  promise: Promise<AssembledPack>;
  resolve: (pack: AssembledPack) => void;
  reject: (error: Error) => void;
}

interface Thread {
  worker: Worker;
  port: MessagePort;
}

/**
 * The training thread's end of the prefetch thread. Finished packs wait in the message port and are taken from it without a turn
 * of the event loop, so a pack that is ready is handed out at once even when native code has kept the loop from turning for seconds.
 * A thread that breaks fails those who wait for it; the next pack starts another one.
 */
export class Prefetcher {
  private readonly options: Omit<PrefetchThreadOptions, "port">;
  private thread: Thread | null;
  private readonly flights = new Map<number, Flight>(); // by pack
  private idLast = 0;
  private closed = false;

  constructor(options: Omit<PrefetchThreadOptions, "port">) {
    this.options = options;
    this.thread = this.startThread();
  }

  /** Begins a pack unless it is under way already; `request` is only made when needed. */
  start(pack: number, request: () => Omit<PackRequest, "id">): void {
    if (this.flights.has(pack) || this.closed) return;
    this.thread ??= this.startThread();
    const id = ++this.idLast;
    this.flights.set(pack, { id, reply: null, waiter: null });
    this.send({ kind: "pack", request: { id, ...request() } });
  }

  /** Drops every pack that is not among these and that nobody waits for. */
  keep(packs: ReadonlySet<number>): void {
    for (const [pack, { waiter }] of this.flights)
      if (waiter === null && !packs.has(pack)) this.flights.delete(pack);
  }

  /** A pack that was started; each is handed out once. */
  async finish(pack: number): Promise<AssembledPack> {
    if (this.closed) throw failureOf("the source was closed");
    const flight = this.flights.get(pack);
    if (!flight) throw failureOf(`pack ${pack} was not started`);
    const asked = flight.waiter; // by someone else before: both get the same pack
    this.receiveArrived();
    if (asked) return asked.promise;
    if (flight.reply) {
      this.flights.delete(pack);
      return unpack(flight.reply);
    }
    return this.wait(flight);
  }

  async close(): Promise<void> {
    this.closed = true;
    const { thread } = this;
    this.fail("the source was closed");
    if (thread === null) return;
    const ended = new Promise((resolve) => thread.worker.once("exit", resolve));
    thread.worker.ref();
    thread.port.postMessage({ kind: "close" } satisfies PrefetchRequest);
    await ended;
    thread.port.close();
  }

  private startThread(): Thread {
    const channel = new MessageChannel();
    const workerData: PrefetchThreadOptions = { ...this.options, port: channel.port2 };
    const entry = entryPoint("prefetch_thread");
    const worker = new Worker(entry, { workerData, transferList: [channel.port2], name: "goku-prefetch" });
    const thread = { worker, port: channel.port1 };
    thread.port.on("message", (reply: PrefetchReply) => this.receive(reply));
    const broke = (reason: string) => {
      if (this.thread !== thread) return;
      thread.port.close();
      this.fail(`the prefetch thread failed (${reason})`);
    };
    worker.on("error", (error) => broke((error as Error).message));
    worker.on("exit", (code) => broke(`it exited with code ${code}`));
    // neither keeps the process alive by itself: a source that is dropped must not hang its rank
    thread.port.unref();
    worker.unref();
    return thread;
  }

  private receiveArrived(): void {
    while (this.thread) {
      const arrived = receiveMessageOnPort(this.thread.port) as { message: PrefetchReply } | undefined;
      if (!arrived) return;
      this.receive(arrived.message);
    }
  }

  private wait(flight: Flight): Promise<AssembledPack> {
    let settle!: Omit<Waiter, "promise">;
    const promise = new Promise<AssembledPack>((resolve, reject) => {
      settle = { resolve, reject };
    });
    flight.waiter = { promise, ...settle };
    this.thread?.port.ref();
    this.thread?.worker.ref();
    return promise;
  }

  private send(request: PrefetchRequest): void {
    this.thread?.port.postMessage(request);
  }

  private receive(reply: PrefetchReply): void {
    const id = reply.kind === "pack" ? reply.pack.id : reply.id;
    const found = [...this.flights].find(([, flight]) => flight.id === id);
    if (!found) return; // dropped meanwhile
    const [pack, flight] = found;
    flight.reply = reply;
    if (flight.waiter) this.settle(pack, flight.waiter, reply);
  }

  private settle(pack: number, { resolve, reject }: Waiter, reply: PrefetchReply): void {
    this.flights.delete(pack);
    try {
      resolve(unpack(reply));
    } catch (error) {
      reject(error as Error);
    }
    if ([...this.flights.values()].some(({ waiter }) => waiter !== null)) return;
    this.thread?.port.unref();
    this.thread?.worker.unref();
  }

  private fail(reason: string): void {
    this.thread = null;
    for (const { waiter } of this.flights.values()) waiter?.reject(failureOf(reason));
    this.flights.clear();
  }
}

function failureOf(reason: string): GokuError {
  return new GokuError("INTERNAL", `Cannot prepare packs: ${reason}`);
}

function unpack(reply: PrefetchReply): AssembledPack {
  if (reply.kind === "pack") return reply.pack;
  throw new GokuError(reply.code, `Cannot prepare a pack: ${reply.message}`);
}
