import { isDeepStrictEqual } from "node:util";
import * as grpc from "@grpc/grpc-js";
import { noop } from "cockatiel";
import { type CallContext, Etcd3, isRecoverableError } from "etcd3";
import { reasonOf, unavailable } from "./etcd_errors.js";
import type { EtcdSecrets, EtcdSettings } from "./etcd_settings.js";

/** Of use as long as the lease: a late answer still counts from when it was asked. */
const RENEW_MS = 1_500;
/** A list may be large. */
const RANGE_MS = 2_000;
const CALL_MS = 1_000;
/** A call that has waited so long goes on waiting, but the next one goes to another member. */
const SUSPECT_MS = 400;

/** Clients with certificates that were replaced are kept so long, for the calls that are under way. */
const RETIRE_MS = 3_000;

/** For every connection to etcd. Its servers take a ping every 5 s and no more often (--grpc-keepalive-min-time). */
export const CHANNEL_OPTIONS: grpc.ChannelOptions = {
  "grpc.keepalive_time_ms": 6_000,
  "grpc.keepalive_timeout_ms": 2_000,
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1_000,
  "grpc.max_receive_message_length": -1,
};

/**
 * The members of an etcd cluster, each behind a client of its own; calls go to the one that answered last. The client's
 * own choice of members, retries and circuit breakers are left out: it would repeat a write whose first copy may have
 * been applied, and refuse calls for seconds after etcd is well again.
 */
export class EtcdMembers {
  readonly endpoints: readonly string[];
  readonly #beforeLogIn: () => void;
  #secrets: EtcdSecrets;
  #members: readonly Member[];
  readonly #retired = new Set<Member>();
  #present = 0;

  constructor({ endpoints, tls, login }: EtcdSettings, beforeLogIn: () => void) {
    this.endpoints = endpoints;
    this.#beforeLogIn = beforeLogIn;
    this.#secrets = { tls, login };
    this.#members = endpoints.map((endpoint) => connect(endpoint, tls));
  }

  /**
   * Certificates serve the next connection, which is made at once; a password serves the next log-in, which comes when etcd
   * asks for one: a token that is good stays in use, so that a new password may be there before etcd knows it.
   */
  use(secrets: EtcdSecrets): void {
    const { tls } = this.#secrets;
    this.#secrets = secrets;
    if (isDeepStrictEqual(tls, secrets.tls)) return;
    for (const member of this.#members) this.#retire(member);
    this.#members = this.endpoints.map((endpoint) => connect(endpoint, secrets.tls));
  }

  #retire(member: Member): void {
    this.#retired.add(member);
    const close = () => {
      if (this.#retired.delete(member)) member.client.close();
    };
    setTimeout(close, RETIRE_MS).unref();
  }

  get credentials(): grpc.ChannelCredentials {
    const { tls } = this.#secrets;
    if (tls === null) return grpc.credentials.createInsecure();
    return grpc.credentials.createSsl(tls.ca, tls.client?.key ?? null, tls.client?.cert ?? null);
  }

  /** Index of the member that calls go to now. */
  get present(): number {
    return this.#present;
  }

  /**
   * A new token of a member, which its calls carry from now on; null where etcd asks for none. (The client's own way to
   * tokens leaves a channel behind each time.)
   */
  async logIn(index: number): Promise<string | null> {
    this.#beforeLogIn();
    const { login } = this.#secrets;
    if (login === null) return null;
    const member = this.#members[index]!;
    const request = { name: login.user, password: login.password };
    member.token = null; // etcd looks at the one that comes with a log-in, too
    member.token = (await member.client.auth.authenticate(request)).token;
    return member.token;
  }

  /** One try at the present member; the next one goes to another where this one cannot be used. */
  async once<T>(call: (client: Etcd3) => Promise<T>): Promise<T> {
    const tried = this.#present;
    const suspicion = setTimeout(() => this.#leave(tried), SUSPECT_MS);
    suspicion.unref();
    try {
      if (this.#members[tried]!.token === null) await this.logIn(tried);
      try {
        return await call(this.#members[tried]!.client);
      } catch (error) {
        if (!isStaleToken(error as Error) || (await this.logIn(tried)) === null) throw error;
        return await call(this.#members[tried]!.client); // the first one was turned away at the door
      }
    } catch (error) {
      if (isRecoverableError(error as Error)) this.#leave(tried);
      throw error;
    } finally {
      clearTimeout(suspicion);
    }
  }

  #leave(tried: number): void {
    if (this.#present === tried) this.#present = (tried + 1) % this.#members.length;
  }

  /** For calls that may be carried out twice: one try at every member. Throws STORE_UNAVAILABLE, naming all of them. */
  async each<T>(what: string, call: (client: Etcd3) => Promise<T>): Promise<T> {
    const found: string[] = [];
    for (let i = 0; i < this.#members.length; i++) {
      const endpoint = this.endpoints[this.#present]!;
      try {
        return await this.once(call);
      } catch (error) {
        found.push(`${endpoint} (${reasonOf(error)})`);
        if (!isRecoverableError(error as Error)) break;
      }
    }
    throw unavailable(what, found.join(", "));
  }

  close(): void {
    for (const { client } of [...this.#members, ...this.#retired]) client.close();
    this.#retired.clear();
  }
}

interface Member {
  client: Etcd3;
  /** Of the user; null: none was asked for yet. */
  token: string | null;
}

function connect(endpoint: string, tls: EtcdSecrets["tls"]): Member {
  const credentials =
    tls === null
      ? {}
      : {
          credentials: {
            rootCertificate: tls.ca,
            ...(tls.client === null ? {} : { certChain: tls.client.cert, privateKey: tls.client.key }),
          },
        };
  const interceptors = [askForLeader(() => member.token)];
  const client = new Etcd3({
    hosts: `${tls === null ? "http" : "https"}://${endpoint}`,
    ...credentials,
    grpcOptions: CHANNEL_OPTIONS,
    defaultCallOptions: ({ method }) => ({ deadline: Date.now() + limitMs(method), interceptors }),
    faultHandling: { host: () => noop, global: noop },
  });
  const member: Member = { client, token: null };
  return member;
}

function limitMs(method: CallContext["method"]): number {
  if (method === "leaseKeepAlive") return RENEW_MS;
  return method === "range" ? RANGE_MS : CALL_MS;
}

/** What etcd says of a token that has ended, and what the client is told instead: at etcd's words it repeats the call for ever. */
const TOKEN_ENDED = { said: "invalid auth token", told: "the token has ended" } as const;

/** A member that has lost the others answers so at once, and not what it last knew or not at all. */
function askForLeader(token: () => string | null): grpc.Interceptor {
  const listener = new grpc.ListenerBuilder()
    .withOnReceiveStatus(({ details, ...status }, next) =>
      next({ ...status, details: details.replace(TOKEN_ENDED.said, TOKEN_ENDED.told) }),
    )
    .build();
  return (options, nextCall) =>
    new grpc.InterceptingCall(nextCall(options), {
      start: (metadata, _listener, next) => next(callMetadata(token(), metadata.clone()), listener),
    });
}

export function callMetadata(token: string | null, metadata = new grpc.Metadata()): grpc.Metadata {
  metadata.set("hasleader", "true");
  if (token !== null) metadata.set("token", token);
  return metadata;
}

/** Members forget tokens when they start, and when the password changes; those that are signed end when users change. */
function isStaleToken({ message }: Error): boolean {
  return message.includes(TOKEN_ENDED.told) || message.includes("revision of auth store is old");
}
