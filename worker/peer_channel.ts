import * as grpc from "@grpc/grpc-js";
import { certificateHolder } from "../security/certificate_holder.js";
import { bearerInterceptor } from "../security/client_access.js";
import { readTlsFiles } from "../security/tls_files.js";

/**
 * Options of the connections between nodes on which snapshots travel. With the 64 KiB window of HTTP/2's default a chunk is
 * many round trips; a head may be half a MiB of JSON and as much of checksums.
 */
export const PEER_CHANNEL = {
  "grpc-node.flow_control_window": 8 * 2 ** 20,
  "grpc.max_receive_message_length": 4 * 2 ** 20,
  "grpc.keepalive_time_ms": 10_000,
  "grpc.keepalive_timeout_ms": 5_000,
};

/** How agents and ranks of a job show each other who they are. */
export interface PeerAccess {
  /** Of the job, from the controller. */
  secret: string;
  /** Certificate of this node, and the CA of all nodes; null: plain text, on loopback only. */
  tls: PeerTls | null;
}

/** Paths of PEM files. */
export interface PeerTls {
  ca: string;
  cert: string;
  key: string;
}

/** A name that no machine has: a server is known by its certificate's role, and this one stands for all. */
const PEER_NAME = "goku-agent";

/** Arguments of a PeerService client. Throws ARGUMENT_INVALID where a file is wrong. */
export function peerChannel({ secret, tls }: PeerAccess): [grpc.ChannelCredentials, grpc.ClientOptions] {
  const options = { ...PEER_CHANNEL, interceptors: [bearerInterceptor(secret)] };
  if (tls === null) return [grpc.credentials.createInsecure(), options];
  const { ca, key, cert } = readTlsFiles(tls);
  // Agents come and go at addresses that no certificate names: that it is an agent's is what counts.
  const checkServerIdentity = (_name: string, peer: Parameters<typeof certificateHolder>[0]) =>
    isAgent(peer) ? undefined : new Error("its certificate is no agent's, want O=goku:agent");
  const credentials = grpc.credentials.createSsl(ca, key, cert, { checkServerIdentity });
  return [credentials, { ...options, "grpc.ssl_target_name_override": PEER_NAME }];
}

/** Whether a verified certificate is that of an agent. Pure. */
export function isAgent(certificate: Parameters<typeof certificateHolder>[0]): boolean {
  return certificateHolder(certificate)?.role === "agent";
}
