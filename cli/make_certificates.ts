import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { isIP } from "node:net";
import path from "node:path";
import { GokuError } from "../job/errors.js";
import { ORGANISATION_PREFIX } from "../security/certificate_holder.js";
import type { Role } from "../security/principal.js";

const CA_DAYS = 3_650;
const CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

/** Stands for every agent: for clients such as Prometheus, which want a name in a server's certificate. */
const AGENT_NAME = "goku-agent";

/** A certificate to make, NAME.crt and NAME.key. */
interface Wanted {
  name: string;
  role: Role | null;
  /** Addresses it is a server's at; none: a client's. */
  hosts: readonly string[];
  usage: "serverAuth" | "clientAuth" | "serverAuth,clientAuth";
}

/**
 * Makes a CA in `folder`, and with it certificates of a controller (for these hosts), of all agents, of a person who
 * operates, and of a program that reads, such as Prometheus; a second time only those that are missing, of the same CA. By the
 * program openssl, which every distribution keeps well; what it makes is plain PEM. Returns the files made. Throws ARGUMENT_INVALID, NOT_FOUND.
 */
export function makeCertificates(folder: string, hosts: readonly string[], days: number): string[] {
  return makeAll(folder, days, [
    { name: "controller", role: null, hosts, usage: "serverAuth" },
    { name: "agent", role: "agent", hosts: [AGENT_NAME], usage: "serverAuth,clientAuth" },
    { name: "operate", role: "operate", hosts: [], usage: "clientAuth" },
    { name: "read", role: "read", hosts: [], usage: "clientAuth" },
  ]);
}

/**
 * The same for the members of an etcd and for the controllers, its only clients: of a CA of its own, so that no certificate
 * of an agent means anything there.
 */
export function makeEtcdCertificates(folder: string, hosts: readonly string[], days: number): string[] {
  return makeAll(folder, days, [
    { name: "etcd", role: null, hosts, usage: "serverAuth,clientAuth" },
    { name: "client", role: null, hosts: [], usage: "clientAuth" },
  ]);
}

function makeAll(folder: string, days: number, wanted: readonly Wanted[]): string[] {
  const hosts = wanted.flatMap((one) => one.hosts);
  for (const host of hosts)
    if (isIP(host) === 0 && !/^(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$/.test(host))
      throw new GokuError(
        "ARGUMENT_INVALID",
        `Cannot make a certificate for ${JSON.stringify(host)}: want a host name or an address`,
      );
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const made = makePair(folder, "ca", makeAuthority);
  for (const one of wanted)
    made.push(...makePair(folder, one.name, (scratch) => issue(folder, scratch, one, days)));
  return made;
}

/**
 * Has NAME.crt and NAME.key made in a folder of their own and moves them when both are whole: the certificate last, so that
 * where it is, the pair is. Returns the files made; none where they are there. A key alone was left by a run that ended in
 * between, and is replaced; that of a CA may have signed what is in use.
 */
function makePair(folder: string, name: string, make: (scratch: string) => void): string[] {
  const [certificate, key] = [`${name}.crt`, `${name}.key`];
  const at = (file: string) => path.join(folder, file);
  const [hasCertificate, hasKey] = [existsSync(at(certificate)), existsSync(at(key))];
  if (hasCertificate && (hasKey || name !== "ca")) return [];
  if (name === "ca" && hasCertificate !== hasKey) throw half(at(hasKey ? key : certificate), hasKey);
  const scratch = mkdtempSync(path.join(folder, ".making-"));
  try {
    make(scratch);
    for (const file of [key, certificate]) renameSync(path.join(scratch, file), at(file));
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  return [at(certificate), at(key)];
}

function half(file: string, isKey: boolean): GokuError {
  return new GokuError(
    "ARGUMENT_INVALID",
    `Cannot make certificates: ${file} is there without ${isKey ? "its certificate ca.crt" : "its key ca.key"}; bring that back, or, for a new CA, remove ${path.basename(file)} and what it has signed`,
  );
}

function makeAuthority(scratch: string): void {
  const subject = ["-subj", `/CN=goku CA ${new Date().toISOString().slice(0, 10)}`];
  const extensions = [
    ...["-addext", "basicConstraints=critical,CA:TRUE,pathlen:0"],
    ...["-addext", "keyUsage=critical,keyCertSign,cRLSign"],
  ];
  const out = ["-keyout", path.join(scratch, "ca.key"), "-out", path.join(scratch, "ca.crt")];
  openssl(["req", "-x509", ...CURVE, "-nodes", "-days", `${CA_DAYS}`, ...subject, ...extensions, ...out]);
}

function issue(folder: string, scratch: string, { name, role, hosts, usage }: Wanted, days: number): void {
  const request = path.join(scratch, "request");
  const subject = `${role === null ? "" : `/O=${ORGANISATION_PREFIX}${role}`}/CN=goku-${name}`;
  const key = ["-keyout", path.join(scratch, `${name}.key`)];
  openssl(["req", "-new", ...CURVE, "-nodes", "-subj", subject, ...key, "-out", request]);
  const names = hosts.map((host) => `${isIP(host) === 0 ? "DNS" : "IP"}:${host}`);
  const extensions = [
    "basicConstraints=critical,CA:FALSE",
    "keyUsage=critical,digitalSignature",
    `extendedKeyUsage=${usage}`,
    ...(names.length > 0 ? [`subjectAltName=${names.join()}`] : []),
  ];
  const extensionFile = path.join(scratch, "extensions");
  writeFileSync(extensionFile, `${extensions.join("\n")}\n`);
  const ca = ["-CA", path.join(folder, "ca.crt"), "-CAkey", path.join(folder, "ca.key")];
  const out = ["-extfile", extensionFile, "-out", path.join(scratch, `${name}.crt`)];
  openssl([
    ...["x509", "-req", "-in", request, "-days", `${days}`],
    ...[...ca, "-set_serial", `0x${serial()}`, ...out],
  ]);
}

/** Random, so that no file has to count; below 2^127, since a serial number is positive. */
function serial(): string {
  return openssl(["rand", "-hex", "15"]).trim();
}

function openssl(args: string[]): string {
  try {
    return execFileSync("openssl", args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  } catch (error) {
    const { code, stderr } = error as { code?: string; stderr?: string };
    if (code === "ENOENT")
      throw new GokuError(
        "NOT_FOUND",
        "Cannot make certificates: there is no openssl; apt-get install openssl",
      );
    throw new GokuError("INTERNAL", `Cannot make certificates: openssl ${args[0]}: ${stderr?.trim()}`, {
      cause: error,
    });
  }
}
