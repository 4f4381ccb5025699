import { GokuError } from "../../job/errors.js";

/** What etcd or the connection to it said. */
export function reasonOf(error: unknown): string {
  return (error as Error).message
    .replace(/^\d+ [A-Z_]+: /, "")
    .replace(/^No connection established\. Last error: (?:Error: )?(.*?)\.? Resolution note: $/, "$1");
}

export function unavailable(what: string, found: string): GokuError {
  const advice = found.includes("user name is empty")
    ? "give --store-user and its password"
    : "see that etcd runs there and has a leader, and check --store, its certificates and its user";
  return new GokuError("STORE_UNAVAILABLE", `Cannot ${what}: etcd at ${found}; ${advice}`);
}
