import * as grpc from "@grpc/grpc-js";
import { readSnapshotHead, SnapshotReader } from "../../checkpoint/snapshot.js";
import { stateKey } from "../../checkpoint/state.js";
import {
  PeerServiceService,
  type ReadSnapshotRequest,
  type ReadSnapshotResponse,
  type ReplicateRequest,
  type ReplicateResponse,
  type SnapshotChunk,
} from "../../gen/goku/v1/peer.pb.js";
import { ERRORS, GokuError, toGokuError } from "../../job/errors.js";
import { joinAddress } from "../../security/loopback.js";
import { TlsServerCredentials } from "../../security/server_credentials.js";
import { certificateExpiryMs, readTlsFiles, type TlsMaterial } from "../../security/tls_files.js";
import { bearerToken, sameSecret } from "../../security/tokens.js";
import { Watched } from "../../security/watched.js";
import { isAgent, PEER_CHANNEL, type PeerTls } from "../peer_channel.js";
import type { KeptReplicas } from "./kept_replicas.js";
import type { SnapshotStore } from "./snapshot_store.js";
import { readLayout, readState } from "./wire.js";

/** A stream on which no offer comes for so long is ended. */
const OFFER_MS = 10_000;

type ReplicateCall = grpc.ServerDuplexStream<ReplicateRequest, ReplicateResponse>;
type ReadCall = grpc.ServerWritableStream<ReadSnapshotRequest, ReadSnapshotResponse>;

export interface PeerServerOptions {
  store: SnapshotStore;
  kept: KeptReplicas;
  /** Null: plain text, on loopback only. */
  tls: PeerTls | null;
  /** Secret of the job that this node serves; null: none, and nobody is let in. */
  secret: () => string | null;
  /** A new certificate cannot be used; the old one is. */
  onBadCertificate: (error: Error) => void;
}

/** Serves this node's snapshots to other nodes of its job, and takes in theirs. */
export class PeerServer {
  private readonly store: SnapshotStore;
  private readonly kept: KeptReplicas;
  private readonly options: PeerServerOptions;
  private readonly server = new grpc.Server(PEER_CHANNEL);
  private certificate: Watched<TlsMaterial> | null = null;

  constructor(options: PeerServerOptions) {
    this.options = options;
    this.store = options.store;
    this.kept = options.kept;
    this.server.addService(PeerServiceService, {
      replicate: (call: ReplicateCall) => this.answer(call, () => this.replicate(call)),
      readSnapshot: (call: ReadCall) => this.answer(call, () => this.read(call)),
    });
  }

  /**
   * Listens on a free port of `host` and returns it. Throws PORT_IN_USE where the host is none of this machine,
   * ARGUMENT_INVALID where the certificate cannot be used.
   */
  async start(host: string): Promise<number> {
    const credentials = this.credentials();
    return new Promise((resolve, reject) => {
      this.server.bindAsync(joinAddress(host, 0), credentials, (error, port) => {
        if (error === null) resolve(port);
        else
          reject(
            new GokuError("PORT_IN_USE", `Cannot serve snapshots on ${host}: ${error.message}`, {
              cause: error,
            }),
          );
      });
    });
  }

  close(): void {
    this.certificate?.close();
    this.server.forceShutdown();
  }

  /** Of the certificate in use; null: there is none. */
  get certificateExpiryMs(): number | null {
    return this.certificate && certificateExpiryMs(this.certificate.value.cert);
  }

  private credentials(): grpc.ServerCredentials {
    const { tls, onBadCertificate } = this.options;
    if (tls === null) return grpc.ServerCredentials.createInsecure();
    const onChange = (material: TlsMaterial) => credentials.replace(material);
    const watched = new Watched([tls.cert, tls.key, tls.ca], () => readTlsFiles(tls), {
      onChange,
      onFailed: onBadCertificate,
    });
    const credentials = new TlsServerCredentials(watched.value, true);
    this.certificate = watched;
    return credentials;
  }

  /** Throws UNAUTHENTICATED unless the caller belongs to the job of this node, and to the cluster. */
  private requirePeer(call: ReplicateCall | ReadCall): void {
    const refuse = (found: string, want: string) => {
      throw new GokuError("UNAUTHENTICATED", `Cannot serve snapshots: ${found}, want ${want}`);
    };
    if (this.options.tls !== null && !isAgent(call.getAuthContext()?.sslPeerCertificate))
      refuse("the caller's certificate is no agent's", "O=goku:agent");
    const shown = bearerToken(call.metadata.get("authorization")[0]?.toString());
    const secret = this.options.secret();
    if (secret === null || shown === null || !sameSecret(shown, secret))
      refuse("the caller does not show the secret of this node's job", "the one in its Prepare");
  }

  private answer(call: ReplicateCall | ReadCall, serve: () => Promise<void>): void {
    const work = async () => {
      this.requirePeer(call);
      await serve();
    };
    work().then(
      () => call.end(),
      (thrown: unknown) => {
        const error = toGokuError(thrown);
        const code = grpc.status[ERRORS[error.code].grpc as keyof typeof grpc.status];
        call.emit("error", { code, details: error.message } satisfies Partial<grpc.StatusObject>);
      },
    );
  }

  private async replicate(call: ReplicateCall): Promise<void> {
    // Reading to the end must not destroy the call: its status would never go out, and the caller wait for ever.
    const requests = call.iterator({ destroyOnReturn: false }) as AsyncIterator<ReplicateRequest>;
    const silence = setTimeout(() => call.destroy(), OFFER_MS);
    const first = await requests.next().finally(() => clearTimeout(silence));
    const offer = first.done ? undefined : first.value.message;
    if (offer?.$case !== "offer")
      throw new GokuError("ARGUMENT_INVALID", "Cannot keep a replica: no offer came");
    const incoming = { chunks: chunksOf(requests), stop: () => call.destroy() };
    await this.kept.receive(offer.value, incoming, (response) => call.write(response));
  }

  private async read(call: ReadCall): Promise<void> {
    const { jobId, rank, chunks } = call.request;
    const state = readState(call.request.state);
    const layout = readLayout(call.request.layout);
    const found = this.store
      .sets(jobId)
      .flatMap((set) => set.held)
      .find(
        (held) =>
          held.layout === layout.toString() &&
          held.rank % layout.shardGroupSize === rank % layout.shardGroupSize &&
          stateKey(held.state) === stateKey(state),
      );
    const head = found === undefined ? null : readSnapshotHead(found.path);
    if (found === undefined || head === null)
      throw new GokuError("NOT_FOUND", `no whole snapshot of rank ${rank}, step ${state.step}, is here`);
    await send(call, { message: { $case: "head", value: head } });
    if (chunks.length === 0) return;
    if (chunks.some((index, i) => i > 0 && index <= chunks[i - 1]!))
      throw new GokuError("ARGUMENT_INVALID", "Cannot read chunks: want their indexes in rising order");
    const reader = await SnapshotReader.open(found.path);
    try {
      for await (const { index, bytes } of reader.chunks(chunks)) {
        if (call.cancelled) return;
        // A copy: the reader's memory is used again while this is on its way.
        await send(call, { message: { $case: "chunk", value: { index, data: Buffer.from(bytes) } } });
      }
      reader.requireUnchanged();
    } finally {
      await reader.close();
    }
  }
}

/** Waits while the other side does not read. */
async function send(call: ReadCall, response: ReadSnapshotResponse): Promise<void> {
  if (call.write(response) || call.cancelled) return;
  await new Promise<void>((resolve) => {
    const done = () => {
      call.off("drain", done).off("cancelled", done).off("close", done);
      resolve();
    };
    call.on("drain", done).on("cancelled", done).on("close", done);
  });
}

async function* chunksOf(requests: AsyncIterator<ReplicateRequest>): AsyncGenerator<SnapshotChunk> {
  for (let next = await requests.next(); !next.done; next = await requests.next()) {
    const { message } = next.value;
    if (message?.$case === "chunk") yield message.value;
  }
}
