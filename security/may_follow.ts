import { isAddress } from "../job/is_address.js";
import type { ClientAccess } from "./client_access.js";
import { hostOf, isLoopback } from "./loopback.js";

/** How often one request goes where a controller says that the leader is; leaders change, but not that fast. */
export const HOPS_MAX = 3;

/**
 * Whether a client goes where a controller says that the leader is: it shows its token there, and believes the answer. With
 * TLS it does, since whoever answers has to prove by a certificate of the CA that the address is its own. In plain text it
 * goes to addresses that its user has given, and from loopback to loopback. Pure.
 * @param from address of the controller that says so
 */
export function mayFollow(
  leader: string,
  { from, given, ca }: { from: string; given: readonly string[] } & Pick<ClientAccess, "ca">,
): boolean {
  if (!isAddress(leader)) return false;
  return ca !== null || given.includes(leader) || [from, leader].every((one) => isLoopback(hostOf(one)));
}
