import { readFileSync } from "node:fs";
import type { Server as TlsServer } from "node:tls";
import { ServerCredentials } from "@grpc/grpc-js";
import type { Logger } from "pino";
import { GokuError } from "../../job/errors.js";
import { requireSafeListen } from "../../security/listen_rule.js";
import { contextOf, TlsServerCredentials } from "../../security/server_credentials.js";
import {
  certificateExpiryMs,
  readTlsFiles,
  type TlsFiles,
  type TlsMaterial,
} from "../../security/tls_files.js";
import { TokenTable } from "../../security/tokens.js";
import { Watched } from "../../security/watched.js";

export interface SecurityOptions {
  host: string;
  /** Null: plain text. */
  tls: TlsFiles | null;
  /** Null: no tokens. */
  tokensFile: string | null;
}

const ADVICE =
  'make certificates with "gokuctl certs init" and tokens with "gokuctl token create" (docs/security.md), or listen on 127.0.0.1';

/** The certificates and tokens of a controller, read again where their files change. */
export class ServerSecurity {
  readonly #tls: Watched<TlsMaterial> | null;
  readonly #tokens: Watched<TokenTable> | null;
  /** The tokens have changed. */
  onTokens: () => void = () => {};
  readonly #servers: ((material: TlsMaterial) => void)[] = [];

  /**
   * Throws ARGUMENT_INVALID: a file is wrong, or the address needs more than there is.
   * @param onCertificate hears of each certificate in use, and when it expires
   */
  constructor(
    { host, tls, tokensFile }: SecurityOptions,
    log: Logger,
    onCertificate: (expiryMs: number) => void,
  ) {
    requireSafeListen({
      what: "a controller",
      host,
      tls: tls !== null,
      asks: tokensFile !== null || tls?.ca != null,
      advice: ADVICE,
    });
    const onFailed = (error: Error) => log.error(`the old one stays in use: ${error.message}`);
    this.#tls =
      tls &&
      new Watched([tls.cert, tls.key, ...(tls.ca ? [tls.ca] : [])], () => readTlsFiles(tls), {
        onFailed,
        onChange: (material) => {
          for (const replace of this.#servers) replace(material);
          onCertificate(certificateExpiryMs(material.cert));
          log.info({ cert: tls.cert }, "certificate replaced");
        },
      });
    if (this.tls !== null) onCertificate(certificateExpiryMs(this.tls.cert));
    this.#tokens =
      tokensFile === null
        ? null
        : new Watched([tokensFile], () => readTokens(tokensFile), {
            onFailed,
            onChange: ({ size }) => {
              log.info({ tokens: size }, "tokens read again");
              this.onTokens();
            },
          });
  }

  get tls(): TlsMaterial | null {
    return this.#tls?.value ?? null;
  }

  /** Callers may show a certificate instead of a token. */
  get certificates(): boolean {
    return this.tls?.ca != null;
  }

  get tokens(): TokenTable | null {
    return this.#tokens?.value ?? null;
  }

  /** For a gRPC server; follows the files. */
  grpcCredentials(): ServerCredentials {
    if (this.#tls === null) return ServerCredentials.createInsecure();
    const credentials = new TlsServerCredentials(this.#tls.value, false);
    this.#servers.push((material) => credentials.replace(material));
    return credentials;
  }

  /** Has a TLS server of Node's follow the files. */
  follow(server: unknown): void {
    if (this.#tls !== null)
      this.#servers.push((material) => (server as TlsServer).setSecureContext(contextOf(material)));
  }

  /** Reads at once what changed; a clock does so every few seconds. */
  look(): void {
    this.#tls?.look();
    this.#tokens?.look();
  }

  close(): void {
    this.#tls?.close();
    this.#tokens?.close();
  }
}

function readTokens(file: string): TokenTable {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new GokuError("ARGUMENT_INVALID", `Cannot read tokens file ${file}: ${(error as Error).message}`);
  }
  return TokenTable.parse(text, file);
}
