import assert from "node:assert/strict";
import { test } from "node:test";
import type { Presented } from "../../../controller/api/guard.js";
import { PERMISSIONS, type Permission, permissionOf } from "../../../controller/api/permissions.js";
import { ROLES, type Role } from "../../../security/principal.js";
import { createToken } from "../../../security/tokens.js";
import { tableOf, testGuard } from "../../support/guards.js";

const made = Object.fromEntries(ROLES.map((role) => [role, createToken(`my-${role}`, role)])) as Record<
  Role,
  ReturnType<typeof createToken>
>;
const table = tableOf(ROLES.map((role) => made[role].line));
const asking = { tokens: () => table, certificates: true };
const by = (presented: Partial<Presented>): Presented => ({
  token: null,
  certificate: null,
  address: "10.0.0.9",
  ...presented,
});

function codeOf(act: () => unknown): string {
  try {
    act();
    return "admitted";
  } catch (error) {
    return (error as { code: string }).code;
  }
}

test("Guard: each role may do what is its own, whatever is asked", () => {
  const { guard } = testGuard(asking);
  const may = (role: Role) =>
    (Object.keys(PERMISSIONS) as Permission[]).filter(
      (permission) => codeOf(() => guard.admit(by({ token: made[role].token }), permission)) === "admitted",
    );
  const reading = [
    "getDiagnosis",
    "getJob",
    "getLogs",
    "getPreviewFile",
    "listCheckpoints",
    "listIncidents",
    "listJobs",
    "listNodes",
    "listPreviews",
    "metrics",
  ];
  const read = [...reading, "other", "watchEvents"];
  assert.deepEqual(may("read").sort(), read);
  assert.deepEqual(
    may("operate").sort(),
    [...read, "diagnose", "drainNode", "releaseNode", "saveJob", "stopJob", "submitJob"].sort(),
  );
  assert.deepEqual(may("agent"), ["session"]);
});

test("Guard: who shows nothing, an unknown token, or a certificate without a role, is told what is missing, and that is told", () => {
  const { guard, told } = testGuard(asking);
  const cases: [Partial<Presented>, Permission, string, RegExp][] = [
    [{}, "listJobs", "UNAUTHENTICATED", /Cannot list jobs: no token and no certificate .* came, want .*read/],
    [{ token: "goku_x" }, "stopJob", "UNAUTHENTICATED", /Cannot stop a job: the token is not in/],
    [{ certificate: { name: "web", role: null } }, "listJobs", "UNAUTHENTICATED", /"web" names not one role/],
    [
      { token: made.read.token },
      "stopJob",
      "PERMISSION_DENIED",
      /token "my-read" has the role read, want operate/,
    ],
    [
      { certificate: { name: "n", role: "agent" } },
      "listJobs",
      "PERMISSION_DENIED",
      /certificate "n".*agent, want read/,
    ],
  ];
  for (const [presented, permission, code, message] of cases)
    assert.throws(() => guard.admit(by(presented), permission), { code, message });
  assert.deepEqual(
    told.map(({ who, via, address, action, outcome }) => [who, via, address, action, outcome]),
    [
      ["", "", "10.0.0.9", "list jobs", "UNAUTHENTICATED"],
      ["", "", "10.0.0.9", "stop a job", "UNAUTHENTICATED"],
      ["", "", "10.0.0.9", "list jobs", "UNAUTHENTICATED"],
      ["my-read", "token", "10.0.0.9", "stop a job", "PERMISSION_DENIED"],
      ["n", "certificate", "10.0.0.9", "list jobs", "PERMISSION_DENIED"],
    ],
  );
});

test("Guard: a bad token is not made good by a certificate that comes with it; a token goes before a certificate", () => {
  const { guard } = testGuard(asking);
  const certificate = { name: "c", role: "operate" } as const;
  assert.equal(
    codeOf(() => guard.admit(by({ token: "goku_x", certificate }), "stopJob")),
    "UNAUTHENTICATED",
  );
  const read = by({ token: made.read.token, certificate });
  assert.equal(
    codeOf(() => guard.admit(read, "stopJob")),
    "PERMISSION_DENIED",
  );
  assert.equal(guard.admit(by({ certificate }), "stopJob").principal.name, "c");
});

test("Guard: a token that was struck out of the file is refused with the next request", () => {
  let now = table;
  const { guard } = testGuard({ tokens: () => now });
  const request = by({ token: made.read.token });
  assert.equal(guard.admit(request, "listJobs").principal.name, "my-read");
  now = tableOf([made.operate.line]);
  assert.equal(
    codeOf(() => guard.admit(request, "listJobs")),
    "UNAUTHENTICATED",
  );
  now = tableOf([]); // an emptied file locks all out; it does not let all in
  assert.equal(
    codeOf(() => guard.admit(request, "listJobs")),
    "UNAUTHENTICATED",
  );
});

test("Guard: what goes on under a token ends when that is struck out or given another role; the rest is left alone", () => {
  let now = table;
  const { guard } = testGuard({ tokens: () => now, certificates: true });
  const ended: string[] = [];
  const watch = (name: string, presented: Partial<Presented>, permission: Permission) =>
    guard.watch(by(presented), permission, ({ message }) => ended.push(`${name}: ${message}`));
  watch("agents", { token: made.agent.token }, "session");
  watch("reader", { token: made.read.token }, "watchEvents");
  watch("certificate", { certificate: { name: "n", role: "agent" } }, "session");
  watch("gone by itself", { token: made.agent.token }, "session")();
  guard.recheck();
  assert.deepEqual(ended, []);
  now = tableOf([made.read.line, made.agent.line.replace(" agent ", " read ")]);
  guard.recheck();
  guard.recheck();
  assert.deepEqual(ended, ["agents: Cannot go on to speak for a node: it has not the role agent any more"]);
  now = tableOf([]);
  guard.recheck();
  assert.match(
    ended[1]!,
    /^reader: Cannot go on to follow events: the token is not in the controller's file any more$/,
  );
  assert.equal(ended.length, 2);
});

test("Guard: too many requests of one token are refused with when to come again; agents, who share one, never are", () => {
  let nowMs = 0;
  const { guard, told } = testGuard({ ...asking, requestsPerSecond: 2, nowMs: () => nowMs });
  const list = (role: Role) => () => guard.admit(by({ token: made[role].token }), "listJobs");
  for (let i = 0; i < 6; i++) list("read")();
  assert.throws(list("read"), { code: "RATE_LIMITED", waitMs: 500, message: /more than 2 times a second/ });
  list("operate")();
  nowMs = 500;
  list("read")();
  assert.equal(codeOf(list("read")), "RATE_LIMITED");
  for (let i = 0; i < 100; i++) guard.admit(by({ token: made.agent.token }), "session");
  assert.deepEqual(told, []);
});

test("Guard: refusals of one address are told until they are too many; others, and those who may, are not kept out", () => {
  const { guard, told } = testGuard(asking);
  const wrong = () => guard.admit(by({ token: "goku_x" }), "listJobs");
  for (let i = 0; i < 20; i++) assert.equal(codeOf(wrong), "UNAUTHENTICATED");
  for (let i = 0; i < 1_000; i++) assert.equal(codeOf(wrong), "RATE_LIMITED");
  assert.equal(told.length, 20);
  assert.equal(
    codeOf(() => guard.admit(by({ address: "10.0.0.8" }), "listJobs")),
    "UNAUTHENTICATED",
  );
  assert.equal(
    codeOf(() => guard.admit(by({ token: made.read.token }), "listJobs")),
    "admitted",
  );
});

test("Guard: with neither tokens nor certificates everyone is let in, as loopback", () => {
  const { guard } = testGuard();
  assert.ok(guard.isOpen);
  for (const permission of Object.keys(PERMISSIONS) as Permission[])
    assert.equal(guard.admit(by({ token: "anything" }), permission).principal.via, "loopback");
});

test("permissionOf() knows every method by its path, and lets nothing unknown pass", () => {
  assert.equal(permissionOf("/goku.v1.ControllerService/StopJob"), "stopJob");
  assert.equal(permissionOf("/goku.v1.AgentService/Session"), "session");
  for (const path of ["/goku.v1.ControllerService/DropTables", "/x/ToString", "/x/__proto__", ""])
    assert.throws(() => permissionOf(path), TypeError);
});
