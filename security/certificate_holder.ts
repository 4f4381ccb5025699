import type { PeerCertificate } from "node:tls";
import { isRole, type Role } from "./principal.js";

/** Before the role in the organisation of a certificate's subject, for example `O=goku:agent`. */
export const ORGANISATION_PREFIX = "goku:";

/** Who a verified certificate is for. */
export interface CertificateHolder {
  /** Common name. */
  name: string;
  /** Null: its subject names none. */
  role: Role | null;
}

/** Null: no certificate was given. The role is an organisation of the subject, as Kubernetes has its groups there. Pure. */
export function certificateHolder(certificate: PeerCertificate | undefined): CertificateHolder | null {
  if (!certificate?.subject) return null;
  const roles = words(certificate.subject.O)
    .filter((name) => name.startsWith(ORGANISATION_PREFIX))
    .map((name) => name.slice(ORGANISATION_PREFIX.length))
    .filter(isRole);
  // Two roles in one certificate are a mistake: it is given neither.
  return { name: words(certificate.subject.CN)[0] ?? "", role: roles.length === 1 ? roles[0]! : null };
}

/** A field of a subject; it may stand there several times, whatever its type says. */
function words(field: unknown): string[] {
  return [field].flat().filter((word) => typeof word === "string");
}
