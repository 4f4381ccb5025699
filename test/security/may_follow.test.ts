import assert from "node:assert/strict";
import { test } from "node:test";
import { mayFollow } from "../../security/may_follow.js";

test("mayFollow(): with a CA anywhere, since the certificate proves the address; without, where the user or loopback says so", () => {
  const here = { from: "127.0.0.1:7070", given: ["127.0.0.1:7070"], ca: null };
  const away = { from: "a.example:7070", given: ["a.example:7070", "b.example:7070"], ca: null };
  const cases: [string, Parameters<typeof mayFollow>[1], boolean][] = [
    ["b.example:7070", { ...here, ca: "ca.crt" }, true],
    ["127.0.0.1:7071", here, true],
    ["[::1]:7071", here, true],
    ["b.example:7070", here, false],
    ["10.0.0.1:7070", here, false],
    ["b.example:7070", away, true],
    ["c.example:7070", away, false],
    ["127.0.0.1:7070", away, false], // whoever is far away does not choose what is asked here
    ["", { ...here, ca: "ca.crt" }, false],
    ["unix:/run/other.sock", { ...here, ca: "ca.crt" }, false],
    ["dns:///b.example:7070", { ...here, ca: "ca.crt" }, false],
  ];
  for (const [leader, options, wanted] of cases)
    assert.equal(mayFollow(leader, options), wanted, `${leader} from ${options.from}, CA ${options.ca}`);
});
