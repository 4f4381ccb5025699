import {
  castGrpcError,
  type Etcd3,
  EtcdLeaseInvalidError,
  GRPCUnavailableError,
  isRecoverableError,
} from "etcd3";
import { GokuError } from "../../job/errors.js";
import { reasonOf, unavailable } from "./etcd_errors.js";
import { EtcdMembers } from "./etcd_members.js";
import type { EtcdSecrets, EtcdSettings } from "./etcd_settings.js";
import { etcdRange, etcdTransaction, storeEntry } from "./etcd_transaction.js";
import { EtcdWatch } from "./etcd_watch.js";
import type {
  LeaseId,
  Store,
  StoreCompare,
  StoreEntry,
  StoreEvent,
  StoreOutcome,
  StoreWatch,
  StoreWrite,
} from "./store.js";
import { checkTransaction } from "./transaction_limits.js";

/**
 * The store of a cluster with several controllers: etcd, through the client `etcd3` for everything but watches. Reads are
 * linearizable and are tried at every member in turn. A write is tried once: when its answer does not come it is
 * *unknown*, since etcd may still apply it. Which of the client's faults are closed how: docs/decisions/017-etcd.md.
 */
export class EtcdStore implements Store {
  readonly #members: EtcdMembers;
  readonly #prefix: string;
  readonly #watches = new Set<StoreWatch>();
  #closed = false;

  private constructor(settings: EtcdSettings, beforeLogIn: () => void) {
    this.#members = new EtcdMembers(settings, beforeLogIn);
    this.#prefix = settings.prefix;
  }

  /**
   * Throws STORE_UNAVAILABLE, naming every member and what it said, when none can be read.
   * @param beforeLogIn called when the password is about to be shown; a new one may be brought by `use`
   */
  static async open(settings: EtcdSettings, beforeLogIn: () => void = () => {}): Promise<EtcdStore> {
    const store = new EtcdStore(settings, beforeLogIn);
    try {
      await store.#range("use the store", { ...etcdRange(settings.prefix), count_only: true });
      return store;
    } catch (error) {
      await store.close();
      throw error;
    }
  }

  /** From now on these are shown and trusted. Watches that stand go on. */
  use(secrets: EtcdSecrets): void {
    this.#members.use(secrets);
  }

  async get(key: string): Promise<StoreEntry | null> {
    const { kvs } = await this.#range(`read ${key}`, { key: Buffer.from(this.#prefix + key) });
    return kvs[0] === undefined ? null : storeEntry(this.#prefix, kvs[0]);
  }

  async list(prefix: string): Promise<StoreEntry[]> {
    return (await this.#list(prefix)).entries;
  }

  async #list(prefix: string): Promise<{ entries: StoreEntry[]; revision: bigint }> {
    const { kvs, header } = await this.#range(`list ${prefix}`, etcdRange(this.#prefix + prefix));
    return {
      entries: kvs.map((found) => storeEntry(this.#prefix, found)),
      revision: BigInt(header.revision),
    };
  }

  #range(what: string, request: Parameters<Etcd3["kv"]["range"]>[0]) {
    this.#checkOpen();
    return this.#members.each(what, (client) => client.kv.range(request));
  }

  async transact(compares: readonly StoreCompare[], writes: readonly StoreWrite[]): Promise<StoreOutcome> {
    this.#checkOpen();
    checkTransaction(compares, writes);
    const request = etcdTransaction(this.#prefix, compares, writes);
    const endpoint = this.#members.endpoints[this.#members.present]!;
    try {
      const { succeeded, header, responses } = await this.#members.once((client) => client.kv.txn(request));
      if (succeeded) return { kind: "applied", revision: BigInt(header.revision) };
      const found = responses.flatMap(({ response_range }) => response_range.kvs);
      return { kind: "refused", found: found.map((kv) => storeEntry(this.#prefix, kv)) };
    } catch (error) {
      const reason = reasonOf(error);
      if (error instanceof EtcdLeaseInvalidError) {
        const found = await Promise.all(compares.map(({ key }) => this.get(key)));
        return { kind: "refused", found: found.filter((entry) => entry !== null) };
      }
      if (isRecoverableError(error as Error))
        return { kind: "unknown", reason: `etcd at ${endpoint}: ${reason}` };
      throw unavailable("write to the store", `${endpoint} (${reason})`);
    }
  }

  async watch(
    prefix: string,
    onEvents: (events: StoreEvent[]) => void,
    onLost: (reason: string) => void,
  ): Promise<StoreWatch> {
    const watch = await EtcdWatch.start({
      members: this.#members,
      prefix: this.#prefix + prefix,
      storePrefix: this.#prefix,
      list: () => this.#list(prefix),
      onEvents,
      onLost,
    });
    this.#watches.add(watch);
    return {
      close: () => {
        this.#watches.delete(watch);
        watch.close();
      },
    };
  }

  /** etcd counts in whole seconds, and makes very short leases longer (2 s with its usual election timeout). */
  async leaseGrant(ttlMs: number): Promise<LeaseId> {
    this.#checkOpen();
    const request = { TTL: Math.ceil(ttlMs / 1000) };
    const grant = (client: Etcd3) => client.leaseClient.leaseGrant(request);
    return (await this.#members.each("take a lease", grant)).ID; // one that was granted unheard ends by itself
  }

  /** One try at one member, so that the caller knows when the renewal that was acknowledged had been sent. */
  async leaseRenew(lease: LeaseId): Promise<boolean> {
    this.#checkOpen();
    const endpoint = this.#members.endpoints[this.#members.present]!;
    try {
      return (await this.#members.once((client) => keepAliveOnce(client, lease))) > 0;
    } catch (error) {
      throw unavailable("renew a lease", `${endpoint} (${reasonOf(error)})`);
    }
  }

  async leaseRevoke(lease: LeaseId): Promise<void> {
    this.#checkOpen();
    await this.#members.each("end a lease", (client) =>
      client.leaseClient.leaseRevoke({ ID: lease }).catch((error: unknown) => {
        if (!(error instanceof EtcdLeaseInvalidError)) throw error;
      }),
    );
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const watch of this.#watches) watch.close();
    this.#watches.clear();
    this.#members.close();
  }

  #checkOpen(): void {
    if (this.#closed) throw new GokuError("STORE_UNAVAILABLE", "Cannot use the store in etcd: it is closed");
  }
}

/** The lease's time to live in seconds from now; 0: it has ended. */
async function keepAliveOnce(client: Etcd3, lease: LeaseId): Promise<number> {
  const stream = await client.leaseClient.leaseKeepAlive();
  try {
    return await new Promise<number>((resolve, reject) => {
      stream.on("data", ({ TTL }) => resolve(Number(TTL)));
      stream.on("error", (error) => reject(castGrpcError(error)));
      stream.on("end", () => reject(new GRPCUnavailableError("it ended the renewal")));
      stream.write({ ID: lease });
    });
  } finally {
    stream.end();
  }
}
