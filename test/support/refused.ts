import assert from "node:assert/strict";
import { gokuctl } from "./gokuctl.js";

/** The command ends with that exit code and one line on stderr, which says what the pattern wants. */
export async function refused(args: readonly string[], code: number, pattern: RegExp): Promise<void> {
  const result = await gokuctl(args);
  assert.equal(result.code, code, `${args.join(" ")}\n${result.stdout}${result.stderr}`);
  assert.match(result.stderr, pattern);
  assert.equal(result.stderr.trim().split("\n").length, 1, `more than one line: ${result.stderr}`);
}
