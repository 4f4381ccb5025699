import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";

export interface Certificate {
  certFile: string;
  keyFile: string;
  cert: Buffer;
  key: Buffer;
}

/** An authority of a test's own and what it signs, valid for a day, in files of `folder`. */
export class Certificates {
  readonly #folder: string;
  readonly ca: Certificate;

  constructor(folder: string, name = "ca") {
    this.#folder = folder;
    const { certFile, keyFile } = this.#files(name);
    const key = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    openssl([...key, "-days", "1", "-subj", `/CN=${name}`, "-keyout", keyFile, "-out", certFile]);
    this.ca = read(certFile, keyFile);
  }

  /** For servers on 127.0.0.1 and of those names (`IP:10.0.0.1`, `DNS:here`), and for clients of that group. */
  sign(name: string, { names = [], group }: { names?: readonly string[]; group?: string } = {}): Certificate {
    const { certFile, keyFile } = this.#files(name);
    const [request, extensions] = [`${certFile}.csr`, `${certFile}.ext`];
    writeFileSync(
      extensions,
      `subjectAltName=${["IP:127.0.0.1", "DNS:localhost", ...names].join(",")}\nextendedKeyUsage=serverAuth,clientAuth\n`,
    );
    const subject = `${group === undefined ? "" : `/O=${group}`}/CN=${name}`;
    const key = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    openssl([...key, "-subj", subject, "-keyout", keyFile, "-out", request]);
    const by = ["-CA", this.ca.certFile, "-CAkey", this.ca.keyFile, "-CAcreateserial"];
    openssl(["x509", "-req", "-in", request, ...by, "-days", "1", "-extfile", extensions, "-out", certFile]);
    return read(certFile, keyFile);
  }

  #files(name: string) {
    return {
      certFile: path.join(this.#folder, `${name}.pem`),
      keyFile: path.join(this.#folder, `${name}.key`),
    };
  }
}

function openssl(args: string[]): void {
  execFileSync("openssl", args, { stdio: ["ignore", "ignore", "pipe"] });
}

function read(certFile: string, keyFile: string): Certificate {
  return { certFile, keyFile, cert: readFileSync(certFile), key: readFileSync(keyFile) };
}
