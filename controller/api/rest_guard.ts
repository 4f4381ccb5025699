import { TLSSocket } from "node:tls";
import type { FastifyRequest, RouteOptions } from "fastify";
import { GokuError } from "../../job/errors.js";
import { certificateHolder } from "../../security/certificate_holder.js";
import { isLoopback } from "../../security/loopback.js";
import { bearerToken } from "../../security/tokens.js";
import type { Caller } from "./audit.js";
import type { Guard, Presented } from "./guard.js";
import type { Permission } from "./permissions.js";

declare module "fastify" {
  interface FastifyRequest {
    /** Who asks; null where anybody may. */
    caller: Caller | null;
    /** What he showed. */
    presented: Presented | null;
  }
  interface FastifyContextConfig {
    /** What the route needs; "anybody": nothing, as probes. */
    permission?: Permission | "anybody";
  }
}

/** Lets a request in before its body is read. Throws UNAUTHENTICATED, PERMISSION_DENIED, RATE_LIMITED. */
export function admitRequest(guard: Guard, request: FastifyRequest): void {
  const { permission = "other" } = request.routeOptions.config;
  if (permission === "anybody") return;
  requireNoForeignPage(guard, request);
  const { socket } = request.raw;
  const certificate =
    socket instanceof TLSSocket && socket.authorized ? socket.getPeerCertificate() : undefined;
  const presented = {
    token: bearerToken(request.headers.authorization),
    certificate: certificateHolder(certificate),
    address: socket.remoteAddress ?? "unknown",
  };
  request.caller = guard.admit(presented, permission);
  request.presented = presented;
}

/** Ends an answer that goes on once its caller's token is good no more. Returns what to call when it has ended. */
export function watchAnswer(guard: Guard, request: FastifyRequest, end: () => void): () => void {
  const { presented, routeOptions } = request;
  const { permission = "other" } = routeOptions.config;
  return presented === null || permission === "anybody" ? () => {} : guard.watch(presented, permission, end);
}

/** A route that changes something names what it needs; one that merely reads may leave that out. */
export function requirePermission({ method, url, config }: RouteOptions): void {
  const reads = [method].flat().every((one) => one === "GET" || one === "HEAD");
  if (!reads && config?.permission === undefined)
    throw new TypeError(`${method} ${url} names no permission, see PERMISSIONS`);
}

export function callerOf(request: FastifyRequest): Caller {
  if (request.caller === null)
    throw new TypeError(`${request.url} is open to anybody, who can do nothing there`);
  return request.caller;
}

/**
 * A browser on this machine reaches loopback, and shows client certificates, on behalf of any page that is open in it. A
 * page names its own origin; one whose name was made to lead here names that as the host.
 */
function requireNoForeignPage(guard: Guard, { headers }: FastifyRequest): void {
  const host = headers.host ?? "";
  const name = host.replace(/:\d+$/, "");
  const { origin } = headers;
  const isForeign = origin !== undefined && !origin.endsWith(`://${host}`);
  if (!isForeign && (!guard.isOpen || isLoopback(name))) return;
  const found = isForeign ? `a page of ${JSON.stringify(origin)}` : `host ${JSON.stringify(host)}`;
  throw new GokuError(
    "PERMISSION_DENIED",
    `Cannot answer ${found}: want a request for 127.0.0.1 or localhost, or a controller with tokens; other sites' pages are not answered`,
  );
}
