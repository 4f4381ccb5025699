import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { KubeError } from "../controller/kubernetes/kube_api.js";
import type { KubeHttp } from "../controller/kubernetes/kube_http.js";
import { createToken } from "../security/tokens.js";
import { makeCertificates, makeEtcdCertificates } from "./make_certificates.js";

/** Replicas that have names in the certificates. */
const REPLICAS_MAX = 5;

interface Secret {
  name: string;
  /** Key of the Secret -> file in the folder that certificates are made in. */
  files: Readonly<Record<string, string>>;
  type: "kubernetes.io/tls" | "Opaque";
}

const tls = (name: string, folder: string, pair: string): Secret => ({
  name,
  files: {
    "ca.crt": `${folder}/ca.crt`,
    "tls.crt": `${folder}/${pair}.crt`,
    "tls.key": `${folder}/${pair}.key`,
  },
  type: "kubernetes.io/tls",
});
/** CAs first: what is made anew later is of the same ones. The keys are those of cert-manager, which may take this over. */
export const SECRETS: readonly Secret[] = [
  tls("goku-ca", "goku", "ca"),
  tls("goku-etcd-ca", "etcd", "ca"),
  tls("goku-controller-tls", "goku", "controller"),
  tls("goku-agent-tls", "goku", "agent"),
  tls("goku-operate-tls", "goku", "operate"),
  tls("goku-read-tls", "goku", "read"),
  tls("goku-etcd-tls", "etcd", "etcd"),
  tls("goku-etcd-client-tls", "etcd", "client"),
  { name: "goku-tokens", files: { tokens: "tokens", "operate.token": "operate.token" }, type: "Opaque" },
];
export const SECRET_NAMES = SECRETS.map(({ name }) => name);

/** Which of them to make; certificates may be cert-manager's business. */
export interface BootstrapOptions {
  namespace: string;
  days: number;
  tokensOnly: boolean;
}

/**
 * Makes the Secrets that a cluster needs and does not have; what is there stays and is used, so that one that was deleted
 * is made anew of the same CA. Returns the names of those made. Throws KubeErrors and GokuErrors.
 */
export async function bootstrapSecrets(http: KubeHttp, options: BootstrapOptions): Promise<string[]> {
  const { namespace, days, tokensOnly } = options;
  const wanted = SECRETS.filter(({ type }) => !tokensOnly || type === "Opaque");
  const folder = mkdtempSync(path.join(tmpdir(), "goku-bootstrap-"));
  try {
    for (const sub of ["goku", "etcd"]) mkdirSync(path.join(folder, sub), { mode: 0o700 });
    const missing: Secret[] = [];
    for (const secret of wanted)
      if (!(await fetchSecret(http, namespace, secret, folder))) missing.push(secret);
    if (missing.length === 0) return [];
    if (missing.some(({ type }) => type === "kubernetes.io/tls")) {
      makeCertificates(path.join(folder, "goku"), controllerHosts(namespace), days);
      makeEtcdCertificates(path.join(folder, "etcd"), etcdHosts(namespace), days);
    }
    if (missing.some(({ name }) => name === "goku-tokens")) makeTokens(folder);
    for (const secret of missing) await createSecret(http, namespace, secret, folder);
    return missing.map(({ name }) => name);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function makeTokens(folder: string): void {
  const { token, line } = createToken("bootstrap", "operate");
  writeFileSync(path.join(folder, "tokens"), `${line}\n`, { mode: 0o600 });
  writeFileSync(path.join(folder, "operate.token"), `${token}\n`, { mode: 0o600 });
}

/** Into its files; false: there is none. */
async function fetchSecret(
  http: KubeHttp,
  namespace: string,
  secret: Secret,
  folder: string,
): Promise<boolean> {
  let data: Record<string, string>;
  try {
    const path_ = `/api/v1/namespaces/${namespace}/secrets/${secret.name}`;
    ({ data } = await http.ask<{ data: Record<string, string> }>({ method: "GET", path: path_ }));
  } catch (error) {
    if (error instanceof KubeError && error.kind === "notFound") return false;
    throw error;
  }
  for (const [key, file] of Object.entries(secret.files)) {
    const to = path.join(folder, file);
    if (data[key] !== undefined && !existsSync(to))
      writeFileSync(to, Buffer.from(data[key], "base64"), { mode: 0o600 });
  }
  return true;
}

/** One that somebody else has made meanwhile stays: two of these never make a mixture, since both have read the same CA or fail here. */
async function createSecret(
  http: KubeHttp,
  namespace: string,
  secret: Secret,
  folder: string,
): Promise<void> {
  const data = Object.fromEntries(
    Object.entries(secret.files).map(([key, file]) => [
      key,
      readFileSync(path.join(folder, file)).toString("base64"),
    ]),
  );
  const labels = { "app.kubernetes.io/part-of": "goku" };
  const body = {
    ...{ apiVersion: "v1", kind: "Secret", type: secret.type, data },
    metadata: { name: secret.name, namespace, labels },
  };
  await http.ask({ method: "POST", path: `/api/v1/namespaces/${namespace}/secrets`, body });
}

function controllerHosts(namespace: string): string[] {
  const pods = Array.from(
    { length: REPLICAS_MAX },
    (_, index) => `goku-controller-${index}.goku-controllers`,
  );
  return [...["goku", ...pods].flatMap((name) => spellings(name, namespace)), "localhost", "127.0.0.1"];
}

function etcdHosts(namespace: string): string[] {
  const pods = Array.from({ length: REPLICAS_MAX }, (_, index) => `goku-etcd-${index}.goku-etcd`);
  return [...["goku-etcd", ...pods].flatMap((name) => spellings(name, namespace)), "localhost", "127.0.0.1"];
}

function spellings(name: string, namespace: string): string[] {
  return [name, `${name}.${namespace}`, `${name}.${namespace}.svc`, `${name}.${namespace}.svc.cluster.local`];
}
