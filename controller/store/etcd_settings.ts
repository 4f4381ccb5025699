import { GokuError } from "../../job/errors.js";
import { isAddress } from "../../job/is_address.js";

/** Where an etcd cluster is. */
export interface EtcdPlace {
  /** host:port of each member; at least one. */
  endpoints: readonly string[];
  /** Stands before every key: empty, or a path that ends with "/". */
  prefix: string;
}

/** Whom a controller trusts there, and how it shows who it is. */
export interface EtcdSecrets {
  /** Null: plain TCP. PEM texts; the certificate and its key, for etcd with --client-cert-auth, are given both or neither. */
  tls: { ca: Buffer; client: { cert: Buffer; key: Buffer } | null } | null;
  /** Null: etcd does not ask who one is. */
  login: { user: string; password: string } | null;
}

export type EtcdSettings = EtcdPlace & EtcdSecrets;

/**
 * The endpoints and the prefix in etcd://HOST:PORT[,HOST:PORT...][/PREFIX].
 * Throws ARGUMENT_INVALID, which never repeats the text: someone may have put a password into it.
 */
export function readEtcdUri(text: string): EtcdPlace {
  const [, hosts, path] = /^etcd:\/\/([^/]*)(?:\/(.*))?$/.exec(text) ?? [];
  const endpoints = hosts?.split(",") ?? [];
  const prefix = path?.replace(/\/+$/, "") ?? "";
  if (text.includes("@")) throw invalid("it holds an @, want --store-user and a password file");
  for (const [i, endpoint] of endpoints.entries())
    if (!isAddress(endpoint)) throw invalid(`its member ${i + 1} is no HOST:PORT`);
  if (endpoints.length === 0) throw invalid("it names no member");
  if (!/^[\w.-]+(\/[\w.-]+)*$|^$/.test(prefix))
    throw invalid(`its prefix is "${prefix}", want letters, digits, ".", "_", "-" and "/" between them`);
  return { endpoints, prefix: prefix === "" ? "" : `${prefix}/` };
}

function invalid(found: string): GokuError {
  return new GokuError(
    "ARGUMENT_INVALID",
    `Cannot read --store: ${found}; want etcd://HOST:PORT[,HOST:PORT...][/PREFIX]`,
  );
}
