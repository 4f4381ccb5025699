import type { KeptReplicas } from "../../worker/agent/kept_replicas.js";
import { PeerServer, type PeerServerOptions } from "../../worker/agent/peer_server.js";
import type { SnapshotStore } from "../../worker/agent/snapshot_store.js";
import type { PeerAccess } from "../../worker/peer_channel.js";

/** What nodes of a test's job show each other. */
export const PEER_ACCESS: PeerAccess = { secret: "secret-of-the-job", tls: null };

/** The PeerService of a node of that job, unless told otherwise. */
export function peerServer(
  store: SnapshotStore,
  kept: KeptReplicas,
  other: Partial<PeerServerOptions> = {},
): PeerServer {
  const onBadCertificate = (error: Error) => {
    throw error;
  };
  return new PeerServer({
    store,
    kept,
    tls: null,
    secret: () => PEER_ACCESS.secret,
    onBadCertificate,
    ...other,
  });
}
