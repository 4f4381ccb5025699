import assert from "node:assert/strict";
import { test } from "node:test";
import { jobView } from "../../../controller/core/views.js";
import type { RankProgress } from "../../../gen/goku/v1/agent.pb.js";
import { CoreHarness, FOUR, jobOf, page } from "./harness.js";

/** A round: the steps that every rank does before its next heartbeat. */
const ROUND_STEPS = 5;

/** Four ranks on n0 and n1, n2 free, and what each of their steps takes. */
class Fleet {
  readonly core = new CoreHarness();
  /** Of each rank, in milliseconds. */
  stepMs = [100, 100, 100, 100];
  #sums = [0, 0, 0, 0];
  #steps = 0;

  constructor(options: { replace?: boolean; nodes?: string[] } = {}) {
    const { core } = this;
    core.lead();
    for (const nodeId of options.nodes ?? ["n0", "n1", "n2"]) core.hello(nodeId);
    const job = jobOf({ layout: FOUR, steps: 10_000 });
    job.recovery.replace_stragglers = options.replace ?? false;
    core.submit(job);
    core.pass(2_000);
    core.form();
    this.round(); // the first look at the ranks
    core.take();
  }

  /** All ranks do their steps and every node tells of them. */
  round(count = 1): void {
    for (let i = 0; i < count; i++) {
      this.#steps += ROUND_STEPS;
      this.#sums = this.#sums.map((sum, rank) => sum + ROUND_STEPS * this.stepMs[rank]!);
      this.core.beat(1_000, (nodeId) => this.#pages(nodeId));
    }
  }

  /** The next generation has formed: its ranks count anew. */
  formed(): void {
    this.core.form();
    this.#steps = 0;
    this.#sums = [0, 0, 0, 0];
  }

  #pages(nodeId: string): RankProgress[] {
    return (this.core.job.generation!.nodeRanks.get(nodeId) ?? []).map((rank) =>
      page(rank, {
        step: BigInt(this.#steps),
        times: {
          steps: BigInt(this.#steps),
          work: BigInt(7 * this.#steps),
          forwardUs: BigInt(300 * this.#sums[rank]!),
          backwardUs: BigInt(700 * this.#sums[rank]!),
          optimizerUs: 0n,
          dataUs: 0n,
          waitUs: 0n,
        },
      }),
    );
  }

  /** Straggler events since the last call. */
  told(): string[] {
    return this.core
      .take()
      .flatMap((e) => (e.kind === "log" && e.entry.type === "straggler" ? [e.entry.text] : []));
  }
}

test("a slow rank is told once with its evidence, and once more when it is slow no more", () => {
  const fleet = new Fleet();
  fleet.round(8);
  fleet.stepMs[2] = 180;
  fleet.round(10);
  assert.deepEqual(fleet.told(), [
    "rank 2 on n1 is slow: 1.80 times the time of the others for the same work, above 1.10 in 6 of 8 rounds (steps 36 to 75); in the last: forward 1.80, backward 1.80",
  ]);
  const view = jobView(fleet.core.state, "job-1", fleet.core.nowMs)!;
  assert.deepEqual(
    Array.from(view.rankSlowness!, (slowness) => slowness.toFixed(2)),
    ["1.00", "1.00", "1.80", "1.00"],
  );
  assert.deepEqual(
    view.stragglers.map(({ nodeId, rank, slowness }) => [nodeId, rank, slowness]),
    [["n1", 2, 1.8]],
  );
  fleet.stepMs[2] = 100;
  fleet.round(10);
  assert.deepEqual(fleet.told(), ["rank 2 on n1 is slow no more: 1.00 times the time of the others"]);
  assert.deepEqual(jobView(fleet.core.state, "job-1", fleet.core.nowMs)!.stragglers, []);
});

test("where all ranks of a node are slow, the node is named; what is left of it afterwards, by rank", () => {
  const fleet = new Fleet();
  fleet.stepMs = [100, 100, 150, 200];
  fleet.round(8);
  const [first, ...more] = fleet.told();
  assert.match(first!, /^n1 with all of its 2 ranks is slow: 1\.50 to 2\.00 times the time of the others/);
  assert.deepEqual(more, []);
  fleet.stepMs[3] = 100;
  fleet.round(8);
  const [left, ...none] = fleet.told();
  assert.match(left!, /^rank 2 on n1 is slow: 1\.50 times/);
  assert.deepEqual(none, []);
});

test("an undisturbed job tells nothing, nor does one whose nodes miss heartbeats", () => {
  const fleet = new Fleet();
  fleet.round(10);
  fleet.core.disconnect("n1");
  fleet.round(2);
  fleet.core.hello("n1", { incarnation: "n1#1", jobId: "job-1", generation: 1n, ranks: [page(2), page(3)] });
  fleet.round(10);
  assert.deepEqual(fleet.told(), []);
});

test("a job that says so gives the ranks of a slow node to a free one, by way of a checkpoint", () => {
  const fleet = new Fleet({ replace: true });
  const { core } = fleet;
  fleet.stepMs[3] = 200;
  fleet.round(6);
  assert.deepEqual(
    core.commands().filter((each) => /requestStop/.test(each)),
    ["n0 requestStop", "n1 requestStop"],
  );
  core.ended(40);
  assert.deepEqual(core.job.generation!.rankNodes, ["n0", "n0", "n2", "n2"]);
  fleet.formed();
  fleet.stepMs[3] = 100;
  core.stepDone("n0", 41);
  const incident = core.job.incidents[0]!;
  assert.deepEqual(
    [incident.code, incident.what, incident.rank, incident.nodeId, incident.outcome, incident.stepsLost],
    ["RANK_SLOW", "rank 3 on n1 is slow", 3, "n1", "recovered", 0],
  );
  assert.match(incident.evidence[0]!.text, /^rank 3 on n1: 2\.00 times the time of the others/);
  assert.deepEqual(incident.decisions.map(({ text }) => text).slice(0, 3), [
    "save at the next step, then go on without n1",
    "step 40 of generation 1 is durable: go on from it without n1",
    "form generation 2 as 1x2x2: without n1 (rank 3 on n1 is slow)",
  ]);
  assert.equal(core.job.record.stop, null);
});

test("no free node, or one was replaced not long ago: a slow node stays, and is replaced when it can be", () => {
  const fleet = new Fleet({ replace: true, nodes: ["n0", "n1"] });
  const { core } = fleet;
  const asked = () =>
    core.take().filter((e) => e.kind === "send" && e.message.$case === "requestStop").length;
  fleet.stepMs[3] = 200;
  fleet.round(10);
  assert.equal(asked(), 0, "nobody could take its place");
  core.hello("n2");
  fleet.round(1);
  assert.equal(asked(), 2, "somebody came");
  core.ended(60);
  fleet.formed();
  core.hello("n3");
  fleet.round(20);
  assert.equal(asked(), 0, "n2 is slow as well, too soon after n1");
  fleet.round(600);
  assert.equal(asked(), 2, "ten minutes later it is replaced");
  core.ended(70);
  assert.deepEqual(core.job.generation!.rankNodes, ["n0", "n0", "n3", "n3"], "n1 was free, and is slow");
});

test("a node that was replaced is used again where nothing else is left", () => {
  const fleet = new Fleet({ replace: true });
  const { core } = fleet;
  fleet.stepMs[3] = 200;
  fleet.round(6);
  core.ended(40);
  core.say("n1", { $case: "nodeReleased", value: { jobId: "job-1" } });
  fleet.formed();
  fleet.stepMs[3] = 100;
  fleet.round(2);
  core.leaves("n2");
  core.ended(60);
  assert.deepEqual(core.job.generation!.rankNodes, ["n0", "n0", "n1", "n1"]);
});

test("the slow are forgotten with their generation, and that is told", () => {
  const fleet = new Fleet();
  const { core } = fleet;
  fleet.stepMs[2] = 200;
  fleet.round(8);
  fleet.told();
  core.exited("n0", 0);
  core.pass(1_000);
  assert.deepEqual(fleet.told(), ["rank 2 on n1 was slow; the next generation is judged anew"]);
  assert.equal(jobView(core.state, "job-1", core.nowMs)!.rankSlowness, null);
});

test("agents are told how slow their own ranks are: once it is known, then every 15 s at most", () => {
  const fleet = new Fleet();
  const told = () =>
    fleet.core
      .take()
      .flatMap((e) =>
        e.kind === "send" && e.message.$case === "rankScores" ? [[e.nodeId, e.message.value]] : [],
      );
  fleet.stepMs[2] = 200;
  fleet.round();
  const value = { generation: 1n, slowness: [0.75, 0.75] };
  const first = told() as [string, { generation: bigint; ranks: number[]; slowness: number[] }][];
  assert.deepEqual(
    first.map(([nodeId, { generation, ranks }]) => [nodeId, generation, ranks]),
    [
      ["n0", value.generation, [0, 1]],
      ["n1", value.generation, [2, 3]],
    ],
  );
  assert.deepEqual(first[0]![1].slowness, [1, 1]);
  assert.deepEqual(first[1]![1].slowness, [2, 1]);
  fleet.round(14);
  assert.deepEqual(told(), []);
  fleet.round(1);
  assert.equal(told().length, 2);
});
