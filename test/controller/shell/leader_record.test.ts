import assert from "node:assert/strict";
import { test } from "node:test";
import { decodeLeader, encodeLeader } from "../../../controller/shell/leader_record.js";

const bytes = (text: string) => new TextEncoder().encode(text);
const addresses = { grpc: "a.example:7070", rest: "https://[fd00::2]:7080" };

test("decodeLeader() reads what encodeLeader() writes", () => {
  for (const record of [
    { controllerId: "a", addresses },
    { controllerId: "b", addresses: null },
  ])
    assert.deepEqual(decodeLeader(encodeLeader(record)), record);
});

test("decodeLeader() takes nothing for an address that is none, and no value for its reader's own", () => {
  for (const wrong of [
    { ...addresses, grpc: "unix:/run/other" },
    { ...addresses, rest: "file:///etc" },
    { ...addresses, rest: "https://a.example:7080/\r\nset-cookie: x" },
    { ...addresses, rest: "https://user@a.example:7080" },
    { grpc: addresses.grpc },
    "a.example:7070",
  ])
    assert.deepEqual(decodeLeader(bytes(JSON.stringify({ controllerId: "a", addresses: wrong }))), {
      controllerId: "a",
      addresses: null,
    });
  for (const text of ["", "plain", "null", "7", "{}", '{"controllerId":7}'])
    assert.deepEqual(decodeLeader(bytes(text)), { controllerId: "", addresses: null }, text);
});
