import { GokuError } from "../../job/errors.js";
import { read, readCa, readTlsFiles } from "../../security/tls_files.js";
import type { EtcdSecrets } from "../store/etcd_settings.js";

/** The files that hold what a controller shows and trusts at etcd. */
export interface EtcdFiles {
  tls: { ca: string; client: { cert: string; key: string } | null } | null;
  login: { user: string; passwordFile: string } | null;
}

export function pathsOf({ tls, login }: EtcdFiles): string[] {
  const client = tls?.client ? [tls.client.cert, tls.client.key] : [];
  return [...(tls ? [tls.ca] : []), ...client, ...(login ? [login.passwordFile] : [])];
}

/** Reads and tries them. Throws ARGUMENT_INVALID naming the file, and never shows what is in it. */
export function readEtcdSecrets({ tls, login }: EtcdFiles): EtcdSecrets {
  return { tls: tls && readTls(tls), login: login && readLogin(login) };
}

function readTls({ ca, client }: NonNullable<EtcdFiles["tls"]>): EtcdSecrets["tls"] {
  if (client === null) return { ca: readCa(ca), client };
  const { cert, key } = readTlsFiles({ ...client, ca: null });
  return { ca: readCa(ca), client: { cert, key } };
}

function readLogin({ user, passwordFile }: NonNullable<EtcdFiles["login"]>): EtcdSecrets["login"] {
  const password = read("store password file", passwordFile).toString().trimEnd();
  if (password !== "") return { user, password };
  throw new GokuError(
    "ARGUMENT_INVALID",
    `Cannot read store password file ${passwordFile}: it is empty, want the password of ${user}`,
  );
}
