import path from "node:path";
import type { Command } from "commander";
import type { StoreSettings } from "../controller/shell/open_store.js";
import type { EtcdFiles } from "../controller/shell/store_files.js";
import { GokuError } from "../job/errors.js";
import { hostOf, isLoopback } from "../security/loopback.js";

export interface StoreOptions {
  store: string;
  storeCa?: string;
  storeCert?: string;
  storeKey?: string;
  storeUser?: string;
  storePasswordFile?: string;
}

/** Where a controller keeps what must last. A password is no option and no variable: others on the machine can read those. */
export function addStoreOptions(command: Command): Command {
  return command
    .option(
      "--store <where>",
      "folder of the embedded store, for one controller, or etcd://HOST:PORT[,HOST:PORT...][/PREFIX], for several",
      "./runs/store",
    )
    .option("--store-ca <file>", "etcd: certificates to trust (PEM); turns TLS on")
    .option("--store-cert <file>", "etcd: this controller's certificate (PEM)")
    .option("--store-key <file>", "etcd: its key (PEM)")
    .option("--store-user <name>", "etcd: user, whose password is in a file")
    .option("--store-password-file <file>", "etcd: file that holds the password");
}

/** Throws ARGUMENT_INVALID naming the option. Nothing is read or connected to yet. */
export async function readStore(options: StoreOptions): Promise<StoreSettings> {
  const { store } = options;
  if (!store.includes("://")) {
    const { storeCa, storeCert, storeKey, storeUser, storePasswordFile } = options;
    if (storeCa ?? storeCert ?? storeKey ?? storeUser ?? storePasswordFile)
      throw invalid(
        "--store",
        "it names a folder, want etcd:// with --store-ca, -cert, -key, -user or -password-file",
      );
    return { kind: "embedded", folder: path.resolve(store) };
  }
  const { readEtcdUri } = await import("../controller/store/etcd_settings.js");
  const { endpoints, prefix } = readEtcdUri(store);
  const files = { tls: tlsFiles(options), login: loginFiles(options) };
  const beyond = endpoints.find((endpoint) => !isLoopback(hostOf(endpoint)));
  if (beyond !== undefined) requireGuarded(beyond, files);
  return { kind: "etcd", endpoints, prefix, files };
}

/** All records, and the key that all secrets of jobs are made from, go to etcd and lie there. */
function requireGuarded(endpoint: string, { tls, login }: EtcdFiles): void {
  if (tls === null)
    throw invalid(
      "--store",
      `records and secrets of jobs would go to ${endpoint} in the clear, want --store-ca, and --store-user or --store-cert with --store-key`,
    );
  if (tls.client === null && login === null)
    throw invalid(
      "--store",
      `whoever reaches ${endpoint} without a certificate or user reads the secrets of jobs, want --store-user, or --store-cert with --store-key`,
    );
}

function tlsFiles({ storeCa, storeCert, storeKey }: StoreOptions): EtcdFiles["tls"] {
  if ((storeCert === undefined) !== (storeKey === undefined))
    throw invalid("--store-cert", "a certificate and its key are given together, want --store-key, too");
  if (storeCa === undefined) {
    if (storeCert !== undefined)
      throw invalid("--store-cert", "it is of no use without TLS, want --store-ca");
    return null;
  }
  const client =
    storeCert === undefined || storeKey === undefined ? null : { cert: storeCert, key: storeKey };
  return { ca: storeCa, client };
}

function loginFiles({ storeUser, storePasswordFile }: StoreOptions): EtcdFiles["login"] {
  if (storeUser === undefined && storePasswordFile === undefined) return null;
  if (storeUser === undefined)
    throw invalid("--store-password-file", "there is no user for it, want --store-user");
  if (storePasswordFile === undefined)
    throw invalid("--store-user", "there is no password, want --store-password-file");
  return { user: storeUser, passwordFile: storePasswordFile };
}

function invalid(option: string, found: string): GokuError {
  return new GokuError("ARGUMENT_INVALID", `Cannot read ${option}: ${found}`);
}
