import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { createSecureContext } from "node:tls";
import { GokuError } from "../job/errors.js";

/** Paths of PEM files. */
export interface TlsFiles {
  cert: string;
  key: string;
  /** Those who issue the certificates of the other side; null: the other side is asked for none. */
  ca: string | null;
}

/** Their contents. */
export interface TlsMaterial {
  cert: Buffer;
  key: Buffer;
  ca: Buffer | null;
}

/** Older protocols buy nothing: all who talk to each other here have this one. */
export const TLS_VERSION_MIN = "TLSv1.3";
/** A connection that has not finished its handshake by then is closed. */
export const HANDSHAKE_MS_MAX = 10_000;

/** Reads and tries them. Throws ARGUMENT_INVALID naming the file, for example where key and certificate are not of one pair. */
export function readTlsFiles(files: TlsFiles): TlsMaterial {
  const material = {
    cert: read("certificate", files.cert),
    key: read("key", files.key),
    ca: files.ca === null ? null : readCa(files.ca),
  };
  try {
    createSecureContext({ cert: material.cert, key: material.key });
  } catch (error) {
    throw new GokuError(
      "ARGUMENT_INVALID",
      `Cannot use certificate ${files.cert} with key ${files.key}: ${(error as Error).message}; want PEM files of one pair`,
    );
  }
  return material;
}

/** Certificates of those who issue others'. Throws ARGUMENT_INVALID. */
export function readCa(file: string): Buffer {
  const bytes = read("CA certificate", file);
  try {
    new X509Certificate(bytes);
  } catch (error) {
    throw new GokuError(
      "ARGUMENT_INVALID",
      `Cannot read CA certificate ${file}: ${(error as Error).message}; want a PEM file`,
    );
  }
  return bytes;
}

/** Throws ARGUMENT_INVALID, and says nothing of what is in the file. */
export function read(what: string, file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    throw new GokuError("ARGUMENT_INVALID", `Cannot read ${what} ${file}: ${(error as Error).message}`);
  }
}

/** When the first certificate of a PEM text expires, in Unix milliseconds. */
export function certificateExpiryMs(cert: Buffer): number {
  return Date.parse(new X509Certificate(cert).validTo);
}
