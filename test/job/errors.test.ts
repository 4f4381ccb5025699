import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, it } from "node:test";
import { ERRORS, GokuError, toGokuError } from "../../job/errors.js";
import { REPOSITORY } from "./repository.js";

describe("error catalogue", () => {
  it("docs/errors.md says the same as the catalogue, both ways", async () => {
    const page = await readFile(join(REPOSITORY, "docs/errors.md"), "utf8");
    const documented = [
      ...page.matchAll(/^\| `([A-Z_]+)` \| (\d+) \| (\d+) \| ([A-Z_]+) \| (yes|no) \| (.+) \|$/gm),
    ].map((row) => row.slice(1).join(" | "));
    const known = Object.entries(ERRORS).map(([code, e]) =>
      [code, e.number, e.exit, e.grpc, e.retriable ? "yes" : "no", e.meaning].join(" | "),
    );
    assert.deepEqual(documented.sort(), known.sort());
  });

  it("numbers are distinct and every exit code is documented", async () => {
    const numbers = Object.values(ERRORS).map(({ number }) => number);
    assert.equal(new Set(numbers).size, numbers.length);
    const page = await readFile(join(REPOSITORY, "docs/errors.md"), "utf8");
    const table = page.slice(page.indexOf("## Exit codes"));
    const documented = new Set(
      [...table.matchAll(/^\| ([\d, ]+) \|/gm)].flatMap((row) => row[1]!.split(",").map(Number)),
    );
    for (const [code, { exit }] of Object.entries(ERRORS))
      assert.ok(documented.has(exit), `exit code ${exit} of ${code} is not in docs/errors.md`);
  });

  it("toGokuError() keeps known codes, translates a full disk and names a fallback for the rest", () => {
    const known = new GokuError("COMM_PEER_DIED", "Cannot reduce: rank 3 died", { peer: 3 });
    assert.equal(toGokuError(known), known);
    assert.equal(toGokuError(Object.assign(new Error("write"), { code: "ENOSPC" })).code, "STORAGE_FULL");
    const native = toGokuError(Object.assign(new Error("peer gone"), { code: "COMM_PEER_DIED", peer: 2 }));
    assert.deepEqual([native.code, native.peer], ["COMM_PEER_DIED", 2]);
    assert.equal(toGokuError(new Error("x"), "STORAGE_FAILED").code, "STORAGE_FAILED");
    assert.equal(toGokuError(Object.assign(new Error("x"), { code: "toString" })).code, "INTERNAL");
  });
});
