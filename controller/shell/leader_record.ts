import { isAddress } from "../../job/is_address.js";
import type { LeaderAddresses } from "../api/not_leader_error.js";

/** What stands under the leader's key. */
export interface LeaderRecord {
  /** One controller process. */
  controllerId: string;
  /** Null: where it is reached from elsewhere was not said. */
  addresses: LeaderAddresses | null;
}

export function encodeLeader(record: LeaderRecord): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(record));
}

/** What cannot be read is somebody of whom nothing is known, not even the id. Pure. */
export function decodeLeader(value: Uint8Array): LeaderRecord {
  let found: { controllerId?: unknown; addresses?: { grpc?: unknown; rest?: unknown } | null } | null;
  try {
    found = JSON.parse(new TextDecoder().decode(value));
  } catch {
    found = null;
  }
  const { controllerId, addresses } = found ?? {};
  return {
    controllerId: typeof controllerId === "string" ? controllerId : "",
    addresses: addresses ? readAddresses(addresses) : null,
  };
}

/** They go into answers and logs, so nothing but addresses may stand there. */
function readAddresses({ grpc, rest }: { grpc?: unknown; rest?: unknown }): LeaderAddresses | null {
  if (typeof grpc !== "string" || typeof rest !== "string" || !isAddress(grpc)) return null;
  const [, address] = /^https?:\/\/(.*)$/.exec(rest) ?? [];
  return address !== undefined && isAddress(address) ? { grpc, rest } : null;
}
