import assert from "node:assert/strict";
import { test } from "node:test";
import type { Effect } from "../../../controller/core/contract.js";
import { CoreHarness, jobOf } from "./harness.js";

const kinds = (effects: readonly Effect[]) => effects.map((effect) => effect.kind);

test("a new leader commands nothing before its term is durable", () => {
  const core = new CoreHarness();
  const effects: Effect[] = [];
  const original = core.feed.bind(core);
  core.feed = (event) => {
    const made = event.kind === "persisted" ? [] : original(event); // the store does not answer
    effects.push(...made);
    return made;
  };
  core.lead();
  core.hello("n0");
  core.submit();
  assert.deepEqual(kinds(effects), ["persist"]);
});

test("what came before the term was durable is answered afterwards", () => {
  const core = new CoreHarness();
  core.outcomes = ["unknown", "unknown"];
  core.lead();
  core.hello("n0");
  core.pass(1_000);
  assert.deepEqual(core.commands(), ["n0 welcome"]);
  assert.equal(core.state.leader?.term, 1);
});

test("a write that ended unknown and was not applied is written again", () => {
  const core = new CoreHarness();
  core.lead();
  core.take();
  core.outcomes = ["unknown"];
  core.submit();
  const effects = core.take();
  assert.deepEqual(kinds(effects).slice(0, 4), ["persist", "observe", "read", "persist"]);
  assert.ok(core.store.has("jobs/job-1"));
  assert.ok(effects.some((e) => e.kind === "reply" && e.result.ok));
});

test("a write that ended unknown and was applied is not written again", () => {
  const core = new CoreHarness();
  core.lead();
  core.take();
  core.outcomes = ["unknown"];
  const write = core.write.bind(core);
  const feed = core.feed.bind(core);
  core.feed = (event) => {
    const persist = core.effects.findLast((e) => e.kind === "persist");
    if (event.kind === "persisted" && persist?.kind === "persist") write(persist.writes); // it did arrive
    return feed(event);
  };
  core.submit();
  const effects = core.take();
  assert.equal(effects.filter((e) => e.kind === "persist").length, 1);
  assert.ok(effects.some((e) => e.kind === "reply" && e.result.ok));
});

test("a write refused because another controller wrote gives up leadership, and everything known", () => {
  const core = new CoreHarness();
  core.lead();
  core.hello("n0");
  core.hello("n1");
  core.write([{ key: "counter", record: { kind: "counter", generationLast: 9, jobOrderLast: 1, term: 2 } }]);
  core.take();
  core.submit();
  const effects = core.take();
  assert.ok(effects.some((e) => e.kind === "resign"));
  assert.ok(!effects.some((e) => e.kind === "send" && e.message.$case === "prepare"));
  assert.equal(core.state.leader, null);
  assert.deepEqual(core.feed({ kind: "timerFired", timer: "reconsider" }), []);
});

test("a generation is durable before anyone hears of it", () => {
  const core = new CoreHarness();
  core.lead();
  core.hello("n0");
  core.submit();
  const effects = core.take();
  const persisted = effects.findIndex(
    (e) => e.kind === "persist" && e.writes.some((w) => w.key === "generations/job-1"),
  );
  const prepared = effects.findIndex((e) => e.kind === "send" && e.message.$case === "prepare");
  assert.ok(persisted >= 0 && prepared > persisted);
});

test("a store that does not answer is asked again, and nothing is done meanwhile", () => {
  const core = new CoreHarness();
  core.lead();
  core.hello("n0");
  core.take();
  let answers = false;
  const feed = core.feed.bind(core);
  core.feed = (event) => feed(event.kind === "read" && !answers ? { ...event, entries: null } : event);
  core.outcomes = ["applied", "unknown"];
  core.submit(jobOf());
  core.pass(3_000);
  assert.deepEqual(core.commands(), []);
  const alarms = core.effects.filter((e) => e.kind === "log" && e.entry.level === "alarm");
  assert.equal(alarms.length, 1, "and people hear of it once");
  answers = true;
  core.pass(4_000);
  assert.deepEqual(core.commands(), ["n0 prepare"]);
});

test("a store that takes no writes is tried ever less often, alarms once, and answers those who wait", () => {
  const core = new CoreHarness();
  core.lead();
  core.hello("n0");
  core.take();
  core.outcomes = new Array(100).fill("unknown");
  core.submit();
  core.pass(60_000);
  const effects = core.take();
  const tries = effects.filter((e) => e.kind === "persist").length;
  assert.ok(tries > 5 && tries < 20, `${tries} tries in a minute`);
  assert.equal(effects.filter((e) => e.kind === "log" && e.entry.level === "alarm").length, 1);
  const reply = effects.find((e) => e.kind === "reply");
  assert.ok(reply?.kind === "reply" && !reply.result.ok && reply.result.code === "STORE_UNAVAILABLE");
  assert.match(
    reply.result.message,
    /the store takes no writes \(lost\); it is done once the store takes it/,
  );
  core.outcomes = [];
  core.beat(6_000);
  assert.ok(core.store.has("jobs/job-1"));
  assert.deepEqual(core.commands(), ["n0 prepare"]);
});

test("an agent that obeyed a higher term makes the leader go above it", () => {
  const core = new CoreHarness();
  core.lead();
  core.hello("n0", { term: 7n });
  assert.equal(core.state.leader?.term, 8);
  const welcome = core.effects.find((e) => e.kind === "send");
  assert.equal(welcome?.kind === "send" && welcome.term, 8);
});
