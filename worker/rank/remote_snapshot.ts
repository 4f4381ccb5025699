import { crc32 } from "node:zlib";
import * as grpc from "@grpc/grpc-js";
import type { OpenSnapshot, SnapshotSource } from "../../checkpoint/read_memory.js";
import { parseSnapshotHead, type SnapshotHeader } from "../../checkpoint/snapshot.js";
import type { StateName } from "../../checkpoint/state.js";
import { PeerServiceClient, type ReadSnapshotResponse } from "../../gen/goku/v1/peer.pb.js";
import { type ErrorCode, GokuError } from "../../job/errors.js";
import type { Layout } from "../../job/layout.js";
import { joinAddress } from "../../security/loopback.js";
import { type PeerAccess, peerChannel } from "../peer_channel.js";
import type { MemorySource } from "../rank_messages.js";

/** A node that sends nothing for so long is passed over. */
const SILENCE_MS = 10_000;

interface Wanted {
  jobId: string;
  state: StateName;
  layout: Layout;
  access: PeerAccess;
  /** A rank on the node that is asked, to be named when it does not answer. */
  peer: number | null;
  /** The generation is over: nobody wants it any more. */
  signal: AbortSignal;
}

/** A snapshot in the memory of another node, read through its agent. */
export function remoteSnapshot(wanted: Wanted, place: MemorySource["places"][number]): SnapshotSource {
  const name = `rank ${place.rank} on ${place.nodeId}`;
  return { name, open: () => RemoteSnapshot.open(wanted, place, name) };
}

class RemoteSnapshot implements OpenSnapshot {
  readonly #client: PeerServiceClient;
  readonly #wanted: Wanted;
  readonly #rank: number;
  readonly #name: string;
  header!: SnapshotHeader;

  private constructor(wanted: Wanted, { rank, host, port }: MemorySource["places"][number], name: string) {
    this.#client = new PeerServiceClient(joinAddress(host, port), ...peerChannel(wanted.access));
    this.#wanted = wanted;
    this.#rank = rank;
    this.#name = name;
  }

  static async open(
    wanted: Wanted,
    place: MemorySource["places"][number],
    name: string,
  ): Promise<RemoteSnapshot> {
    const opened = new RemoteSnapshot(wanted, place, name);
    try {
      for await (const { message } of opened.#request([])) {
        if (message?.$case === "head") opened.header = opened.#parse(message.value);
      }
      if (opened.header === undefined) throw opened.#error("SNAPSHOT_MISSING", "no head came");
      return opened;
    } catch (error) {
      await opened.close();
      throw error;
    }
  }

  async *chunks(indexes: Iterable<number>): AsyncGenerator<{ index: number; bytes: Uint8Array }> {
    for await (const { message } of this.#request([...indexes])) {
      if (message?.$case !== "chunk") continue;
      const { index, data } = message.value;
      if (crc32(data) !== this.header.checksums[index])
        throw this.#error("CHECKPOINT_CORRUPT", `chunk ${index} was damaged on the way`);
      yield { index, bytes: data };
    }
  }

  async close(): Promise<void> {
    this.#client.close();
  }

  #parse(head: Uint8Array): SnapshotHeader {
    const header = parseSnapshotHead(this.#name, head);
    if (header === null) throw this.#error("SNAPSHOT_MISSING", "its head is damaged");
    return header;
  }

  async *#request(chunks: number[]): AsyncGenerator<ReadSnapshotResponse> {
    const { jobId, state, layout } = this.#wanted;
    const call = this.#client.readSnapshot({
      jobId,
      state: { generation: BigInt(state.generation), step: BigInt(state.step) },
      layout: { dpReplicate: layout.dpReplicate, dpShard: layout.dpShard, sp: layout.sp },
      rank: this.#rank,
      chunks,
    });
    const { signal } = this.#wanted;
    const cancel = () => call.cancel();
    const silence = setTimeout(cancel, SILENCE_MS);
    signal.addEventListener("abort", cancel);
    try {
      if (signal.aborted) cancel();
      for await (const response of call as AsyncIterable<ReadSnapshotResponse>) {
        silence.refresh();
        yield response;
        silence.refresh(); // what the reader did meanwhile was no silence of theirs
      }
    } catch (error) {
      if (error instanceof GokuError) throw error;
      const { code, details } = error as grpc.ServiceError;
      if (signal.aborted) throw this.#error("COMM_ABORTED", "the generation is over");
      const { DATA_LOSS, CANCELLED, UNAVAILABLE, UNAUTHENTICATED } = grpc.status;
      if (code === CANCELLED) throw this.#error("COMM_PEER_DIED", `nothing came for ${SILENCE_MS / 1000} s`);
      // Its agent may have started anew and not know the job yet: what it holds may be sound.
      if (code === UNAVAILABLE || code === UNAUTHENTICATED) throw this.#error("COMM_PEER_DIED", details);
      throw this.#error(code === DATA_LOSS ? "CHECKPOINT_CORRUPT" : "SNAPSHOT_MISSING", details);
    } finally {
      clearTimeout(silence);
      signal.removeEventListener("abort", cancel);
      call.cancel();
    }
  }

  #error(code: ErrorCode, what: string): GokuError {
    const peer = code === "COMM_PEER_DIED" ? this.#wanted.peer : null;
    return new GokuError(code, `Cannot read the snapshot of ${this.#name}: ${what}`, { peer });
  }
}
