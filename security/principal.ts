/**
 * What a credential allows. `read`: look. `operate`: look, and submit, save, stop, release. `agent`: speak for a node, and
 * nothing else.
 */
export const ROLES = ["read", "operate", "agent"] as const;
export type Role = (typeof ROLES)[number];

/** Who asks, as its credential says. */
export interface Principal {
  /** Name of the token, common name of the certificate, or "loopback" where nobody is asked. */
  name: string;
  via: "token" | "certificate" | "loopback";
  /** Null: anything, since nobody is asked for credentials. */
  role: Role | null;
}

/** The caller of a controller that asks nobody, and therefore listens on loopback only. */
export const ANYONE: Principal = { name: "loopback", via: "loopback", role: null };

export function isRole(text: string): text is Role {
  return (ROLES as readonly string[]).includes(text);
}

/** Pure. */
export function allows(held: Role | null, wanted: Role): boolean {
  return held === null || held === wanted || (held === "operate" && wanted === "read");
}
