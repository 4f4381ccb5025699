import { Guard, type GuardOptions } from "../../controller/api/guard.js";
import type { AuditEntry } from "../../gen/goku/v1/controller.pb.js";
import { TokenTable } from "../../security/tokens.js";

/** A guard whose clock stands still, and what it has told; it asks nobody, unless told otherwise. */
export function testGuard(other: Partial<GuardOptions> = {}): { guard: Guard; told: AuditEntry[] } {
  const told: AuditEntry[] = [];
  const guard = new Guard({
    tokens: () => null,
    certificates: false,
    requestsPerSecond: 100,
    audit: (entry) => told.push(entry),
    nowMs: () => 0,
    ...other,
  });
  return { guard, told };
}

/** Tokens as a controller reads them. */
export function tableOf(lines: readonly string[]): TokenTable {
  return TokenTable.parse(lines.join("\n"), "test tokens");
}
