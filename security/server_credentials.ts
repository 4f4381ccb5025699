import { ServerCredentials } from "@grpc/grpc-js";
import { HANDSHAKE_MS_MAX, TLS_VERSION_MIN, type TlsMaterial } from "./tls_files.js";

/**
 * Credentials of a gRPC server whose certificate is replaced while it serves. Where there is a CA, callers are asked for a
 * certificate; `demand`: and refused without one. Otherwise one that was not issued by the CA counts as none, and whoever
 * answers the call decides.
 */
export class TlsServerCredentials extends ServerCredentials {
  constructor(material: TlsMaterial, demand: boolean) {
    super(
      {
        requestCert: material.ca !== null,
        rejectUnauthorized: demand,
        handshakeTimeout: HANDSHAKE_MS_MAX,
      },
      contextOf(material),
    );
  }

  /** From the next connection on. */
  replace(material: TlsMaterial): void {
    this.updateSecureContextOptions(contextOf(material));
  }

  override _equals(other: ServerCredentials): boolean {
    return this === other;
  }
}

/** For any TLS server of Node's. */
export function contextOf({ cert, key, ca }: TlsMaterial) {
  return { cert, key, ...(ca === null ? {} : { ca }), minVersion: TLS_VERSION_MIN } as const;
}
