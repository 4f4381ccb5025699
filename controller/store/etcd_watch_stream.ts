import * as grpc from "@grpc/grpc-js";
import { Event_EventType } from "../../gen/etcd/kv.pb.js";
import { WatchClient, type WatchRequest, type WatchResponse } from "../../gen/etcd/watch.pb.js";
import { reasonOf } from "./etcd_errors.js";
import { CHANNEL_OPTIONS, callMetadata, type EtcdMembers } from "./etcd_members.js";
import { etcdRange } from "./etcd_transaction.js";
import type { StoreEvent } from "./store.js";

/** A member that has not begun the watch by then is left for another. */
const CREATE_MS = 2_000;

export interface WatchStreamHandlers {
  /** etcd has taken the watch; `revision`: that of the member then. */
  onCreated(revision: bigint): void;
  /** Whole revisions, in order. Keys as etcd has them. */
  onEvents(events: StoreEvent[]): void;
  /** The last call: nothing comes after it. */
  onEnd(end: WatchEnd): void;
}
export type WatchEnd =
  /** The changes from the wanted revision on are not in etcd's history any more. */
  | { kind: "compacted" }
  /** It would not be different another time. */
  | { kind: "refused"; reason: string }
  | { kind: "lost"; reason: string };

/**
 * One watch on one connection to one member, by calls generated from etcd's protos. Whatever happens to it concerns no
 * other watch. What it has not delivered when it ends has to be asked for again, from the revision after the last event.
 */
export class EtcdWatchStream {
  readonly #members: EtcdMembers;
  readonly #handlers: WatchStreamHandlers;
  #client: WatchClient | null = null;
  #call: grpc.ClientDuplexStream<WatchRequest, WatchResponse> | null = null;
  #timer: NodeJS.Timeout;
  #ended = false;

  /** @param from the first revision that is wanted */
  constructor(
    members: EtcdMembers,
    { member, prefix, from }: { member: number; prefix: string; from: bigint },
    handlers: WatchStreamHandlers,
  ) {
    this.#members = members;
    this.#handlers = handlers;
    this.#timer = setTimeout(() => this.#end({ kind: "lost", reason: "it does not begin" }), CREATE_MS);
    this.#timer.unref();
    this.#open(member, prefix, from).catch((error: unknown) =>
      this.#end({ kind: "lost", reason: reasonOf(error) }),
    );
  }

  async #open(member: number, prefix: string, from: bigint): Promise<void> {
    const metadata = callMetadata(await this.#members.logIn(member));
    if (this.#ended) return;
    // A connection of its own, so that none that hangs is taken over.
    const options = { ...CHANNEL_OPTIONS, "grpc.use_local_subchannel_pool": 1 };
    this.#client = new WatchClient(this.#members.endpoints[member]!, this.#members.credentials, options);
    this.#call = this.#client.watch(metadata);
    this.#call.on("data", (response: WatchResponse) => this.#take(response));
    this.#call.on("end", () => this.#end({ kind: "lost", reason: "etcd ended it" }));
    this.#call.on("error", (error: grpc.ServiceError) => {
      const reason = reasonOf(error);
      this.#end({ kind: error.code === grpc.status.PERMISSION_DENIED ? "refused" : "lost", reason });
    });
    const { key, range_end: rangeEnd } = etcdRange(prefix);
    this.#call.write({
      requestUnion: {
        $case: "createRequest",
        value: {
          key,
          rangeEnd,
          startRevision: from,
          progressNotify: false,
          filters: [],
          prevKv: false,
          watchId: 0n,
          fragment: false,
        },
      },
    });
  }

  #take(response: WatchResponse): void {
    if (this.#ended) return;
    if (response.compactRevision > 0n) this.#end({ kind: "compacted" });
    else if (response.canceled) {
      const reason = response.cancelReason || "etcd canceled it";
      this.#end({ kind: reason.includes("permission denied") ? "refused" : "lost", reason });
    } else if (response.created) {
      clearTimeout(this.#timer);
      this.#handlers.onCreated(response.header?.revision ?? 0n);
    }
    if (this.#ended || response.events.length === 0) return;
    this.#handlers.onEvents(
      response.events.map(({ type, kv }) => {
        const isPut = type === Event_EventType.Put;
        return {
          kind: isPut ? "put" : "delete",
          key: kv!.key.toString(),
          value: isPut ? Uint8Array.from(kv!.value) : null,
          modRevision: kv!.modRevision,
        };
      }),
    );
  }

  #end(end: WatchEnd): void {
    if (this.#ended) return;
    this.close();
    this.#handlers.onEnd(end);
  }

  /** Nothing is called any more. */
  close(): void {
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#call?.cancel();
    this.#client?.close();
  }
}
