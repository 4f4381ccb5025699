import assert from "node:assert/strict";
import { test } from "node:test";
import { allows, ROLES } from "../../security/principal.js";

test("allows(): operate includes read, agent stands alone, and only where nobody is asked all is allowed", () => {
  const held = [...ROLES, null];
  const table = held.map((role) => ROLES.map((wanted) => allows(role, wanted)));
  assert.deepEqual(table, [
    // wanted: read, operate, agent
    [true, false, false],
    [true, true, false],
    [false, false, true],
    [true, true, true],
  ]);
});
