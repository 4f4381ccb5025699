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
