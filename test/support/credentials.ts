import { writeFileSync } from "node:fs";
import path from "node:path";
import { makeCertificates } from "../../cli/make_certificates.js";
import type { ClientAccess } from "../../security/client_access.js";
import { ROLES, type Role } from "../../security/principal.js";
import { createToken } from "../../security/tokens.js";

/** Certificates and tokens of a test's cluster, made anew each time. */
export interface Credentials {
  folder: string;
  /** Path of a file that `gokuctl certs init` makes, such as ca.crt. */
  file(name: string): string;
  /** A token of each role, the file that holds it, and the file that the controller reads. */
  tokens: Record<Role, string>;
  tokenFile: Record<Role, string>;
  tokensFile: string;
}

/** What a cluster's processes are given, agents a certificate, and what its test shows the controller: a token to operate. */
export function credentialsOf({ file, tokenFile, tokensFile }: Credentials): {
  env: Record<string, string>;
  access: ClientAccess;
} {
  return {
    env: {
      GOKU_TLS_CERT: file("controller.crt"),
      GOKU_TLS_KEY: file("controller.key"),
      GOKU_TLS_CA: file("ca.crt"),
      GOKU_TOKENS: tokensFile,
      GOKU_CA: file("ca.crt"),
      GOKU_CERT: file("agent.crt"),
      GOKU_KEY: file("agent.key"),
    },
    access: { ca: file("ca.crt"), cert: null, key: null, tokenFile: tokenFile.operate },
  };
}

export function makeCredentials(folder: string, hosts: readonly string[] = ["127.0.0.1"]): Credentials {
  makeCertificates(folder, hosts, 1);
  const made = ROLES.map((role) => createToken(`test-${role}`, role));
  const file = (name: string) => path.join(folder, name);
  writeFileSync(file("tokens"), made.map(({ line }) => `${line}\n`).join(""));
  for (const { role, token } of made) writeFileSync(file(`${role}.token`), `${token}\n`, { mode: 0o600 });
  const byRole = (value: (one: (typeof made)[number]) => string) =>
    Object.fromEntries(made.map((one) => [one.role, value(one)])) as Record<Role, string>;
  return {
    folder,
    file,
    tokens: byRole(({ token }) => token),
    tokenFile: byRole(({ role }) => file(`${role}.token`)),
    tokensFile: file("tokens"),
  };
}
