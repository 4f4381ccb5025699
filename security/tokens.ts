import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { GokuError } from "../job/errors.js";
import { isRole, type Principal, ROLES, type Role } from "./principal.js";

const NAME = /^[A-Za-z0-9]([A-Za-z0-9._@-]{0,62}[A-Za-z0-9])?$/;
/** What may stand in a header; anything longer is no token of ours. */
const TOKEN = /^[\x21-\x7e]{1,512}$/;
/** A prefix that scanners of secrets can look for; 256 random bits follow. */
const PREFIX = "goku_";

interface Entry {
  name: string;
  role: Role;
  hash: Buffer;
}

/** A new token, and the line for it in a controller's tokens file. Throws ARGUMENT_INVALID for a bad name or role. */
export function createToken(name: string, role: string): { token: string; role: Role; line: string } {
  const doing = "Cannot create a token";
  if (!NAME.test(name))
    throw new GokuError(
      "ARGUMENT_INVALID",
      `${doing}: its name is ${JSON.stringify(name)}, want letters, digits and ._@- in between, at most 64`,
    );
  if (!isRole(role))
    throw new GokuError(
      "ARGUMENT_INVALID",
      `${doing}: its role is ${JSON.stringify(role)}, want ${ROLES.join(", ")}`,
    );
  const token = PREFIX + randomBytes(32).toString("base64url");
  return { token, role, line: `${name} ${role} ${digest(token).toString("hex")}` };
}

/** The tokens a controller knows, as SHA-256 digests. A digest suffices: a token is random, not a word that one can guess. */
export class TokenTable {
  readonly #entries: readonly Entry[];

  private constructor(entries: readonly Entry[]) {
    this.#entries = entries;
  }

  /**
   * Reads a tokens file: a line for each, `name role sha256`; `#` begins a comment. Throws ARGUMENT_INVALID naming the line
   * and never its third word, which may be a token that stands there by mistake.
   */
  static parse(text: string, file: string): TokenTable {
    const entries: Entry[] = [];
    for (const [index, line] of text.split("\n").entries()) {
      const words = line.replace(/#.*/, "").trim().split(/\s+/);
      if (words[0] === "") continue;
      const refuse = (found: string) => {
        throw new GokuError(
          "ARGUMENT_INVALID",
          `Cannot read tokens file ${file}: line ${index + 1}: ${found}; want "NAME ROLE SHA256" as "gokuctl token create" prints it`,
        );
      };
      const [name = "", role = "", hash = ""] = words;
      if (words.length !== 3) refuse(`${words.length} words`);
      if (!NAME.test(name)) refuse("its name has other characters than letters, digits and ._@-");
      if (!isRole(role)) refuse(`its role is none of ${ROLES.join(", ")}`);
      else if (!/^[0-9a-f]{64}$/.test(hash)) refuse("its third word is no SHA-256 in hexadecimal");
      else if (entries.some((entry) => entry.name === name)) refuse(`"${name}" stands there twice`);
      else entries.push({ name, role, hash: Buffer.from(hash, "hex") });
    }
    return new TokenTable(entries);
  }

  get size(): number {
    return this.#entries.length;
  }

  /** Whose token it is; null: nobody's. The time taken does not depend on what is nearly right. */
  find(token: string): Principal | null {
    const hash = digest(token);
    let found: Principal | null = null;
    for (const { name, role, hash: known } of this.#entries)
      if (timingSafeEqual(hash, known)) found = { name, via: "token", role };
    return found;
  }
}

/** The token in an authorization header; null: none of the kind Bearer. */
export function bearerToken(header: string | undefined): string | null {
  const token = /^bearer +(\S+)$/i.exec(header ?? "")?.[1];
  return token !== undefined && TOKEN.test(token) ? token : null;
}

/** Checks what a token file holds, without ever printing it. Throws ARGUMENT_INVALID. */
export function readToken(text: string, file: string): string {
  const token = text.trim();
  if (TOKEN.test(token)) return token;
  const found = token === "" ? "it is empty" : "it holds more than one word";
  throw new GokuError("ARGUMENT_INVALID", `Cannot read token file ${file}: ${found}, want one token`);
}

/** Whether two secrets are the same, in a time that does not tell where they differ. */
export function sameSecret(a: string, b: string): boolean {
  return timingSafeEqual(digest(a), digest(b));
}

function digest(token: string): Buffer {
  return createHash("sha256").update(token).digest();
}
