import { type ErrorCode, GokuError } from "../../job/errors.js";
import type { CertificateHolder } from "../../security/certificate_holder.js";
import { ANYONE, allows, type Principal } from "../../security/principal.js";
import type { TokenTable } from "../../security/tokens.js";
import { type AuditSink, auditEntry, type Caller } from "./audit.js";
import { PERMISSIONS, type Permission } from "./permissions.js";
import { RateLimitedError } from "./rate_limited_error.js";
import { RateLimits } from "./rate_limits.js";
import { StreamLimits } from "./stream_limits.js";

/** What came with a request, however it came. */
export interface Presented {
  token: string | null;
  /** Of a certificate that was verified. */
  certificate: CertificateHolder | null;
  address: string;
}

export interface GuardOptions {
  /** Looked up for each request, so that a token that was struck out of the file is refused at once. Null: there are none. */
  tokens: () => TokenTable | null;
  /** Callers may show a certificate. */
  certificates: boolean;
  /** Requests a second of each token or certificate. */
  requestsPerSecond: number;
  audit: AuditSink;
  /** Any clock that does not go back. */
  nowMs: () => number;
}

/** A caller that paused may ask for so many seconds' worth at once. */
const BURST_SECONDS = 3;
/** Refusals of an address that are told one by one; more would drown the log. */
const REFUSALS = { perSecond: 1, burst: 20 };
const STREAMS_MAX = { perCaller: 32, total: 256 };
/** Each is held in memory whole, up to 64 MiB, until its reader has it; a browser fetches six at once. */
const FILES_MAX = { perCaller: 8, total: 16 };

/**
 * Lets requests in: who asks, may he, and does he ask too often. Where there are neither tokens nor certificates everyone
 * may do anything, and the controller listens on loopback only.
 */
export class Guard {
  readonly #streams = new StreamLimits(STREAMS_MAX, { action: "follow events", advice: "end one first" });
  readonly #files = new StreamLimits(FILES_MAX, { action: "fetch a file", advice: "wait for one of them" });
  readonly #options: GuardOptions;
  readonly #requests: RateLimits;
  readonly #refusals = new RateLimits(REFUSALS);
  /** What goes on after it was let in: streams. */
  readonly #standing = new Set<{
    presented: Presented;
    permission: Permission;
    end: (why: GokuError) => void;
  }>();

  constructor(options: GuardOptions) {
    this.#options = options;
    const perSecond = options.requestsPerSecond;
    this.#requests = new RateLimits({ perSecond, burst: BURST_SECONDS * perSecond });
  }

  /** Nobody is asked. */
  get isOpen(): boolean {
    return this.#options.tokens() === null && !this.#options.certificates;
  }

  /** Throws UNAUTHENTICATED, PERMISSION_DENIED, RATE_LIMITED; the first two are audited. */
  admit(presented: Presented, permission: Permission): Caller {
    if (this.isOpen) return { principal: ANYONE, address: presented.address };
    const { address } = presented;
    const found = this.#identify(presented);
    const { role: wanted, action } = PERMISSIONS[permission];
    if ("lacks" in found) {
      const message = `Cannot ${action}: ${found.lacks}, want one with the role ${wanted}; name it with --token-file, or --cert, --key and --ca`;
      return this.#refuse({ principal: null, address }, permission, { code: "UNAUTHENTICATED", message });
    }
    const { principal } = found;
    const { name, via, role } = principal;
    if (!allows(role, wanted)) {
      const message = `Cannot ${action}: ${via} "${name}" has the role ${role}, want ${wanted}; use another, or have it given that role`;
      return this.#refuse({ principal, address }, permission, { code: "PERMISSION_DENIED", message });
    }
    // All agents may share one token, and come back all at once after a controller's end.
    const waitMs = wanted === "agent" ? 0 : this.#requests.take(`${via} ${name}`, this.#options.nowMs());
    if (waitMs > 0)
      throw new RateLimitedError(
        `Cannot ${action}: "${name}" asks more than ${this.#options.requestsPerSecond} times a second; try again in ${waitMs} ms`,
        waitMs,
      );
    return { principal, address };
  }

  /** Counts an event stream. Returns what to call when it has ended. Throws RATE_LIMITED. */
  openEvents({ principal }: Caller): () => void {
    return this.#streams.open(nameOf(principal));
  }

  /** Counts a file that is being sent, as `openEvents` does a stream. */
  openFile({ principal }: Caller): () => void {
    return this.#files.open(nameOf(principal));
  }

  /**
   * Keeps an eye on what was let in and goes on: `end` is called once its token has been struck out, or given another role.
   * Returns what to call when it has ended by itself.
   */
  watch(presented: Presented, permission: Permission, end: (why: GokuError) => void): () => void {
    const one = { presented, permission, end };
    this.#standing.add(one);
    return () => void this.#standing.delete(one);
  }

  /** The tokens have changed. */
  recheck(): void {
    if (this.isOpen) return;
    for (const one of this.#standing) {
      const found = this.#identify(one.presented);
      const { role: wanted, action } = PERMISSIONS[one.permission];
      if ("principal" in found && allows(found.principal.role, wanted)) continue;
      this.#standing.delete(one);
      const reason = "lacks" in found ? found.lacks : `it has not the role ${wanted}`;
      one.end(new GokuError("UNAUTHENTICATED", `Cannot go on to ${action}: ${reason} any more`));
    }
  }

  /** A token goes before a certificate: it was named on purpose. */
  #identify({ token, certificate }: Presented): { principal: Principal } | { lacks: string } {
    const tokens = this.#options.tokens();
    if (token !== null) {
      const principal = tokens?.find(token) ?? null;
      return principal === null ? { lacks: "the token is not in the controller's file" } : { principal };
    }
    if (certificate === null) return { lacks: "no token and no certificate of the controller's CA came" };
    const { name, role } = certificate;
    if (role !== null) return { principal: { name, via: "certificate", role } };
    return { lacks: `the certificate of "${name}" names not one role, such as O=goku:read` };
  }

  #refuse(
    caller: { principal: Principal | null; address: string },
    permission: Permission,
    refusal: { code: ErrorCode; message: string },
  ): never {
    const { code, message } = refusal;
    const waitMs = this.#refusals.take(caller.address, this.#options.nowMs());
    if (waitMs > 0)
      throw new RateLimitedError(
        `Cannot ${PERMISSIONS[permission].action}: ${caller.address} was refused too often; try again in ${waitMs} ms`,
        waitMs,
      );
    this.#options.audit(auditEntry(caller, permission, { target: "", outcome: code }), "");
    throw new GokuError(code, message);
  }
}

/** Null: where nobody is asked who he is, callers cannot be told apart. */
function nameOf(principal: Principal): string | null {
  return principal === ANYONE ? null : `${principal.via} ${principal.name}`;
}
