import { GokuError } from "../job/errors.js";
import { isLoopback } from "./loopback.js";

/**
 * What a server needs before it listens on an address: beyond loopback encryption, and a way to know who calls. There is no
 * option to do without. Throws ARGUMENT_INVALID. Pure.
 */
export function requireSafeListen(options: {
  /** What listens, for messages. */
  what: string;
  host: string;
  tls: boolean;
  /** Callers show a token or a certificate. */
  asks: boolean;
  /** What to do where something is missing. */
  advice: string;
}): void {
  const { what, host, tls, asks, advice } = options;
  if (isLoopback(host) || (tls && asks)) return;
  const lacks = [...(tls ? [] : ["TLS"]), ...(asks ? [] : ["tokens or client certificates"])];
  throw new GokuError(
    "ARGUMENT_INVALID",
    `Cannot listen on ${host}: beyond loopback ${what} needs TLS and tokens or client certificates, has no ${lacks.join(" and no ")}; ${advice}`,
  );
}
