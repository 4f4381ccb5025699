import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { bearerToken, createToken, readToken, sameSecret, TokenTable } from "../../security/tokens.js";

const parse = (text: string) => TokenTable.parse(text, "tokens");

test("a token that was made is found by its line, which holds its digest alone", () => {
  const { token, line } = createToken("alice", "operate");
  assert.match(token, /^goku_[A-Za-z0-9_-]{43}$/);
  assert.equal(line, `alice operate ${createHash("sha256").update(token).digest("hex")}`);
  const other = createToken("ci", "read");
  const table = parse(`# who may do what\n\n${other.line}\n  ${line}   # until May\n`);
  assert.equal(table.size, 2);
  assert.deepEqual(table.find(token), { name: "alice", via: "token", role: "operate" });
  assert.deepEqual(table.find(other.token), { name: "ci", via: "token", role: "read" });
  for (const wrong of ["", `${token} `, token.slice(0, -1), token.toUpperCase(), line.split(" ")[2]!])
    assert.equal(table.find(wrong), null);
  assert.notEqual(createToken("alice", "operate").token, token);
});

test("createToken() refuses names that would not stand in a line or a log, and roles that are none", () => {
  for (const name of ["", "a b", "-a", "a#", "a\n", "x".repeat(65)])
    assert.throws(() => createToken(name, "read"), { code: "ARGUMENT_INVALID" }, JSON.stringify(name));
  assert.throws(() => createToken("a", "admin"), /want read, operate, agent/);
});

test("TokenTable.parse() names the line and what is wrong, and never the third word: it may be a token", () => {
  const { token, line } = createToken("a", "read");
  const cases: [string, RegExp][] = [
    [`a read ${token}`, /line 1: its third word is no SHA-256/],
    [`# x\na admin ${"0".repeat(64)}`, /line 2: its role is none of read, operate, agent/],
    [`${line}\n${line}`, /line 2: "a" stands there twice/],
    ["a read", /2 words/],
    [token, /1 words/],
    [`${token} read ${"0".repeat(64)} extra`, /4 words/],
    [`b/c read ${"0".repeat(64)}`, /its name has other characters/],
  ];
  for (const [text, wanted] of cases)
    assert.throws(
      () => parse(text),
      (error: Error) => {
        assert.match(error.message, wanted);
        assert.doesNotMatch(error.message, new RegExp(token));
        return true;
      },
    );
});

test("bearerToken() takes one word after Bearer, and nothing else", () => {
  assert.equal(bearerToken("Bearer abc"), "abc");
  assert.equal(bearerToken("bearer  abc"), "abc");
  for (const header of [
    undefined,
    "",
    "Bearer",
    "Bearer a b",
    "Basic abc",
    "Bearer ü",
    `Bearer ${"x".repeat(513)}`,
  ])
    assert.equal(bearerToken(header), null, header);
});

test("readToken() wants one word, and does not print what it found", () => {
  assert.equal(readToken(" goku_x\n", "f"), "goku_x");
  assert.throws(() => readToken("\n", "f"), /token file f: it is empty/);
  assert.throws(
    () => readToken("hush hush", "f"),
    (error: Error) => !error.message.includes("hush") && /more than one word/.test(error.message),
  );
});

test("sameSecret() compares secrets of any lengths", () => {
  assert.ok(sameSecret("abc", "abc"));
  assert.ok(!sameSecret("abc", "abcd"));
  assert.ok(!sameSecret("", "a"));
});
