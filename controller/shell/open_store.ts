import { certificateExpiryMs } from "../../security/tls_files.js";
import { Watched } from "../../security/watched.js";
import { EmbeddedStore } from "../store/embedded.js";
import type { EtcdPlace } from "../store/etcd_settings.js";
import type { Store } from "../store/store.js";
import { type EtcdFiles, pathsOf, readEtcdSecrets } from "./store_files.js";

export type StoreSettings =
  | { kind: "embedded"; folder: string }
  | ({ kind: "etcd"; files: EtcdFiles } & EtcdPlace);

export interface OpenedStore {
  store: Store;
  leaseMs: number;
  /** For logs. */
  name: string;
  close(): Promise<void>;
}

/**
 * The leader of a controller that was killed is missed for as long. Of etcd's leases these are the shortest; renewed by
 * memory alone, so that a slow disk does not end them. The embedded store has one controller, whose lease ends with it:
 * there it only has to outlast a machine that stands still.
 */
const LEASE_MS = { embedded: 10_000, etcd: 2_000 } as const;

/**
 * Opens the store, and follows the files of its certificates and password. Throws STORE_LOCKED, STORE_UNAVAILABLE, and
 * ARGUMENT_INVALID where a file is wrong.
 * @param told hears of files that were replaced, of those that cannot be used, which leaves the old in use, and of when the
 * certificate that is shown to etcd expires
 */
export async function openStore(
  settings: StoreSettings,
  told: {
    onReplaced: () => void;
    onFailed: (error: Error) => void;
    onCertificate: (expiryMs: number) => void;
  },
): Promise<OpenedStore> {
  const leaseMs = LEASE_MS[settings.kind];
  if (settings.kind === "embedded") {
    const store = await EmbeddedStore.open(settings.folder);
    return { store, leaseMs, name: settings.folder, close: () => store.close() };
  }
  const { EtcdStore } = await import("../store/etcd.js"); // those who do without etcd do not wait for its client
  const { endpoints, prefix, files } = settings;
  let onChange = () => {}; // what changes before the store is open is looked at when it is
  const secrets = new Watched(pathsOf(files), () => readEtcdSecrets(files), {
    onChange: () => onChange(),
    onFailed: told.onFailed,
  });
  try {
    const look = () => secrets.look();
    const store = await EtcdStore.open({ endpoints, prefix, ...secrets.value }, look);
    const use = () => {
      const { tls } = secrets.value;
      store.use(secrets.value);
      if (tls?.client) told.onCertificate(certificateExpiryMs(tls.client.cert));
    };
    onChange = () => {
      use();
      told.onReplaced();
    };
    use();
    const close = () => {
      secrets.close();
      return store.close();
    };
    return { store, leaseMs, name: `etcd://${endpoints.join(",")}/${prefix}`, close };
  } catch (error) {
    secrets.close();
    throw error;
  }
}
