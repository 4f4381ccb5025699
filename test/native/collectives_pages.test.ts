import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { COLLECTIVE, CONTROL, GROUP_NAME_BYTES, PAGE_BYTES, PROGRESS } from "../../worker/pages.js";
import { REPOSITORY } from "../job/repository.js";

/** `inline constexpr uint32_t name = value;` of one namespace of the header. */
function constantsOf(header: string, space: string): Record<string, number> {
  const body = new RegExp(`namespace ${space} \\{([^}]*)\\}`).exec(header)?.[1];
  assert.ok(body !== undefined, `namespace ${space} in pages.h`);
  const found = [...body.matchAll(/inline constexpr uint32_t (\w+) = (\d+);/g)];
  return Object.fromEntries(found.map(([, name, value]) => [name!, Number(value)]));
}

describe("native/collectives/pages.h", () => {
  const header = readFileSync(join(REPOSITORY, "native/collectives/pages.h"), "utf8");
  it("has the offsets of worker/pages.ts, no more and no fewer", () => {
    assert.deepEqual(constantsOf(header, "control"), { ...CONTROL });
    assert.deepEqual(constantsOf(header, "progress"), { ...PROGRESS });
    assert.deepEqual(constantsOf(header, "collective"), { ...COLLECTIVE });
    assert.equal(Number(/kPageBytes = (\d+)/.exec(header)?.[1]), PAGE_BYTES);
    assert.equal(Number(/kGroupNameBytes = (\d+)/.exec(header)?.[1]), GROUP_NAME_BYTES);
  });
});
