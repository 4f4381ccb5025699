import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { RankProgress } from "../../../gen/goku/v1/agent.pb.js";
import { CoreHarness, FOUR, jobOf, page } from "./harness.js";

const STEP_SECONDS = 0.1;
/** 3 usual steps and 2 s. */
const AIM_MS = 2_300;
const NODES = ["n0", "n1"] as const;

/**
 * A job of four ranks on n0 and n1 that has found its pace. Agents look at their pages all the time: what they tell, they
 * have seen; so each page tells when it last moved, and how it looks.
 */
class Cluster {
  readonly core: CoreHarness;
  /** By rank. */
  readonly pages: RankProgress[];
  readonly movedMs: number[];
  /** Of each node's heartbeats within a second. */
  readonly #beatMs = { n0: 130, n1: 870 };
  /** Agents that do not look, or do not run: what they tell, if anything, does not age. */
  readonly blind = new Set<string>();
  readonly silent = new Set<string>();
  /** Agents that have obeyed all that they were told. */
  readonly heard = new Set<string>();
  /** The newest command that each has obeyed. */
  readonly #obeyed = new Map<string, bigint>();
  #step = 0;

  constructor(options: { stepSeconds?: number; steps?: number } = {}) {
    const { stepSeconds = STEP_SECONDS, steps = Math.max(12, 3 / stepSeconds) } = options; // nodes are new at first
    this.core = new CoreHarness();
    this.core.lead();
    for (const nodeId of ["n0", "n1", "n2"]) this.core.hello(nodeId);
    this.core.submit(jobOf({ layout: FOUR, steps: 1_000 }));
    this.core.form();
    this.pages = [0, 1, 2, 3].map((rank) => page(rank));
    this.movedMs = this.pages.map(() => this.core.nowMs);
    for (let step = 0; step < steps; step++) this.train(stepSeconds);
    this.core.take();
  }

  /** All ranks do a step. */
  train(stepSeconds = STEP_SECONDS): void {
    this.pass(1_000 * stepSeconds, () => {});
    this.#step += 1;
    for (const rank of this.pages.keys())
      this.move(rank, {
        step: BigInt(this.#step),
        collectiveEntered: BigInt(8 * this.#step),
        collectiveCompleted: BigInt(8 * this.#step),
      });
    this.core.stepDone("n0", this.#step, stepSeconds);
  }

  move(rank: number, change: Partial<RankProgress> = {}): void {
    this.pages[rank] = { ...this.pages[rank]!, ...change };
    this.movedMs[rank] = this.core.nowMs;
  }

  /** Rank 3 stands in its forward pass; the others meet it in the next collective. */
  hang(): void {
    for (const rank of [0, 1, 2]) this.move(rank, { collectiveEntered: BigInt(8 * this.#step + 1) });
  }

  told(nodeId: string): RankProgress[] {
    const { core, pages, movedMs, blind } = this;
    const ranks = core.job.generation?.nodeRanks.get(nodeId) ?? [];
    return ranks.map((rank) => ({
      ...pages[rank]!,
      // A page whose time is 0 would be aged by the harness.
      unchangedMs: BigInt(blind.has(nodeId) ? 1 : Math.max(1, core.nowMs - movedMs[rank]!)),
    }));
  }

  /** Lets time pass, with heartbeats each second and answers to who is asked; `each` runs every 10 ms. */
  pass(ms: number, each: () => void): void {
    const { core } = this;
    for (const endMs = core.nowMs + ms; core.nowMs < endMs; ) {
      core.pass(10);
      each();
      for (const nodeId of NODES) {
        if (this.silent.has(nodeId)) continue;
        const asked = core.commands().includes(`${nodeId} tellProgress`);
        if (asked || core.nowMs % 1_000 === this.#beatMs[nodeId]) this.#beat(nodeId, asked);
      }
      core.effects = core.effects.filter((e) => e.kind !== "send" || e.message.$case !== "tellProgress");
    }
  }

  /** Whoever answers a question has obeyed what it was told before. */
  #beat(nodeId: string, asked: boolean): void {
    const { core } = this;
    if (asked || this.heard.has(nodeId)) this.#obeyed.set(nodeId, BigInt(core.state.commandLast));
    const heard = { term: 1n, commandId: this.#obeyed.get(nodeId) ?? 1n };
    core.heartbeat(nodeId, 1, this.told(nodeId), null, heard);
  }

  /** How long it takes until somebody is judged; null: nobody is, in this time. */
  verdictMs(withinMs: number, each: () => void = () => {}): number | null {
    const sinceMs = this.core.nowMs;
    while (this.core.nowMs - sinceMs < withinMs) {
      this.pass(10, each);
      if (this.core.job.stage !== "running") return this.core.nowMs - sinceMs;
    }
    return null;
  }

  get what(): string {
    return this.core.job.incident?.what ?? this.core.job.reason;
  }
}

describe("a running generation that stands still", () => {
  for (const stepSeconds of [0.01, 0.1, 0.5, 2, 10]) {
    test(`names the rank that hangs within 3 steps and 2 s, with steps of ${stepSeconds} s`, () => {
      const cluster = new Cluster({ stepSeconds });
      cluster.pass(1_000 * stepSeconds, () => {}); // the others go on until they need it
      cluster.hang();
      const tookMs = cluster.verdictMs(100_000);
      assert.ok(
        tookMs !== null && 1_000 * stepSeconds + tookMs <= 3_000 * stepSeconds + 2_000,
        `${tookMs} ms`,
      );
      assert.match(
        cluster.what,
        /^rank 3 on n1 has not moved for .*; 3 ranks wait in all_gather of shard\.0/,
      );
    });
  }

  test("is judged far sooner than after a step where a step is full of small changes", () => {
    const cluster = new Cluster({ steps: 0 });
    for (let step = 1; step <= 10; step++) {
      cluster.pass(60_000, () => {
        if (cluster.core.nowMs % 500 === 0)
          for (const rank of [0, 1, 2, 3]) cluster.move(rank, { layer: (cluster.core.nowMs / 500) % 40 });
      });
      cluster.core.stepDone("n0", step, 60, 0, 1n, 0.5);
    }
    cluster.hang();
    assert.ok(cluster.verdictMs(100_000)! <= 2_300);
  });

  test("all have arrived and none gets on: told within 3 steps and 2 s that nobody can be named", () => {
    const cluster = new Cluster();
    for (const rank of [0, 1, 2, 3]) cluster.move(rank, { collectiveEntered: 1_000n });
    assert.ok(cluster.verdictMs(10_000)! <= AIM_MS);
    assert.match(
      cluster.what,
      /4 ranks wait in all_gather of shard\.0 \(number 1000\) and all of them seem to have arrived/,
    );
  });
});

describe("before the pace of a generation is known, a rank is named after 5 s", () => {
  /** Rank 3 stands still in a phase of the first step after a recovery, all others wait for it; how long until it is named. */
  function namedMs(phase: string, device: "cpu" | "cuda", blocks: boolean): number {
    const cluster = new Cluster();
    const { core } = cluster;
    core.exited("n1", 3);
    core.pass(60);
    core.form([{ generation: 1, step: 30 }]);
    core.job.generation!.device = device;
    const sinceMs = core.nowMs;
    const pages = (nodeId: string) =>
      (core.job.generation!.nodeRanks.get(nodeId) ?? []).map((rank) => {
        const unchangedMs = BigInt(Math.max(1, core.nowMs - sinceMs));
        const blockedMs = blocks && unchangedMs > 1_000n ? unchangedMs - 1_000n : 0n;
        const place = rank === 3 ? { phase, blockedMs } : { collectiveEntered: 8n, blockedMs };
        return page(rank, { step: 30n, generation: 2n, unchangedMs, ...place });
      });
    while (core.job.stage === "running" && core.nowMs - sinceMs < 100_000) core.beat(1_000, pages);
    const tookMs = core.nowMs - sinceMs;
    core.pass(100);
    assert.deepEqual([...core.job.kills.keys()], [3]);
    return tookMs;
  }

  for (const phase of ["idle", "data", "forward", "optimizer"])
    test(`if its thread sleeps, or is stopped, in ${phase}`, () => {
      const tookMs = namedMs(phase, "cpu", true);
      assert.ok(tookMs <= 8_000, `${tookMs} ms`);
    });

  test("not if its thread works, nor where it may sleep: while it saves, and while a GPU computes", () => {
    for (const [phase, device, blocks] of [
      ["forward", "cpu", false],
      ["snapshot", "cpu", true],
      ["forward", "cuda", true],
    ] as const)
      assert.ok(namedMs(phase, device, blocks) >= 20_000, `${phase} on ${device}`);
    assert.ok(namedMs("data", "cuda", true) <= 8_000);
  });
});

describe("nobody is judged", () => {
  test("while one rank of many still moves", () => {
    const cluster = new Cluster();
    cluster.hang();
    let layer = 0;
    const slowly = () => {
      if (cluster.core.nowMs % 1_200 === 0) cluster.move(1, { layer: ++layer });
    };
    assert.equal(cluster.verdictMs(60_000, slowly), null, cluster.what);
  });

  test("where all ranks of a starved machine take ten times as long at once", () => {
    const cluster = new Cluster();
    for (let step = 0; step < 30; step++) cluster.train(1);
    assert.equal(cluster.core.job.incidents.length, 0);
    assert.equal(cluster.core.job.stage, "running", cluster.what);
  });

  test("where a machine has become three times slower, and the third slow step is the slowest", () => {
    const cluster = new Cluster({ stepSeconds: 1.15, steps: 30 });
    for (const stepSeconds of [3.15, 3.7, 4.3]) cluster.train(stepSeconds);
    assert.equal(cluster.core.job.incidents.length, 0);
    assert.equal(cluster.core.job.stage, "running", cluster.what);
  });

  test("where rank 0, which alone tells its pauses, is out of reach, and the others show something once a step", () => {
    for (const phase of ["forward", "waits"]) {
      const cluster = new Cluster({ steps: 0 });
      for (let step = 1; step <= 10; step++) {
        cluster.pass(5_000, () => {
          for (const rank of [0, 1, 2, 3]) cluster.move(rank);
        });
        cluster.core.stepDone("n0", step, 5, 0, 1n, 0.25);
      }
      cluster.silent.add("n0");
      let step = 10n;
      const goOn = () => {
        if (cluster.core.nowMs % 4_900 !== 0) return;
        const collectiveEntered = 8n * ++step + (phase === "waits" ? 1n : 0n);
        for (const rank of [2, 3]) cluster.move(rank, { collectiveEntered, collectiveCompleted: 8n * step });
      };
      assert.equal(cluster.verdictMs(25_000, goOn), null, cluster.what);
      assert.ok(cluster.verdictMs(3 * 5_000 + 2_000) !== null);
    }
  });

  test("when a pause ends after the last heartbeats told of it, before the verdict: agents are asked first", () => {
    const cluster = new Cluster();
    cluster.hang();
    const hungMs = cluster.core.nowMs;
    const ends = () => {
      if (cluster.core.nowMs === hungMs + 1_490) cluster.move(3, { phase: "backward" });
    };
    assert.equal(cluster.verdictMs(1_600, ends), null, cluster.what);
  });

  test("while an agent that did not look itself cannot say that its ranks stood still", () => {
    const cluster = new Cluster();
    cluster.hang();
    cluster.blind.add("n1");
    assert.equal(cluster.verdictMs(20_000), null, cluster.what);
    cluster.blind.delete("n1");
    assert.ok(cluster.verdictMs(2_000) !== null);
  });

  test("while a rank waits for data with a thread that turns, until that is long, too", () => {
    const cluster = new Cluster();
    cluster.hang();
    cluster.move(3, { phase: "data" });
    const lives = () => {
      if (cluster.core.nowMs % 250 === 0) cluster.movedMs[3] = cluster.core.nowMs;
    };
    assert.equal(cluster.verdictMs(29_000, lives), null, cluster.what);
    assert.ok(cluster.verdictMs(3_000, lives) !== null);
    assert.match(cluster.what, /^rank 3 on n1 has not moved for 30\.\d s \(step 31, data/);
  });

  test("in the first 20 s of a generation's first step, and in 6 s of the next ones", () => {
    const cluster = new Cluster();
    cluster.core.exited("n1", 3);
    cluster.core.pass(60);
    cluster.core.form([{ generation: 1, step: 30 }]);
    const pages = (nodeId: string) =>
      cluster.core.job
        .generation!.nodeRanks.get(nodeId)
        ?.map((rank) => page(rank, { step: 30n, generation: 2n })) ?? [];
    cluster.core.beat(20_000, pages);
    assert.equal(cluster.core.job.stage, "running", cluster.what);
    cluster.core.stepDone("n0", 31, STEP_SECONDS);
    cluster.core.beat(5_000, pages);
    assert.equal(cluster.core.job.stage, "running", cluster.what);
    cluster.core.beat(2_000, pages);
    assert.notEqual(cluster.core.job.stage, "running");
  });

  test("by a controller that stood still itself: what agents sent meanwhile is read, and they are asked, first", () => {
    for (const stoodMs of [800, 5_000, 60_000]) {
      const cluster = new Cluster();
      cluster.core.nowMs += stoodMs; // nothing is handled meanwhile
      for (const rank of [0, 1, 2, 3]) cluster.move(rank, { layer: 7 }); // they went on all the time
      assert.equal(cluster.verdictMs(1_000), null, cluster.what);
    }
  });

  test("where a node with a rank that hangs is out of the controller's reach, until it is known to be silent", () => {
    const cluster = new Cluster();
    cluster.hang();
    cluster.silent.add("n1");
    assert.equal(cluster.verdictMs(3_000), null, cluster.what);
    assert.ok(cluster.verdictMs(2_500) !== null);
    assert.match(cluster.what, /2 ranks wait .*; ranks 2, 3 on n1 cannot be seen/);
  });

  test("where the controller sees no node at all", () => {
    const cluster = new Cluster();
    for (const nodeId of NODES) cluster.silent.add(nodeId);
    assert.equal(cluster.verdictMs(50_000), null, cluster.what);
  });
});

test("a hang is judged again as fast when it was none: only the third of its kind is granted more", () => {
  const cluster = new Cluster();
  const { pauses } = cluster.core.job;
  cluster.hang();
  assert.ok(cluster.verdictMs(5_000)! <= AIM_MS);
  assert.deepEqual([pauses.ms.at(-1), pauses.layout], [3_000, "1x2x2"]);
});

describe("all ranks wait in one collective, one of them for ever", () => {
  /** The others answer the abort; so long after the fault somebody is ended. */
  function namedMs(cluster: Cluster, answers: (rank: number) => void): number | null {
    const { core } = cluster;
    const sinceMs = core.nowMs;
    for (const rank of [0, 1, 2, 3]) cluster.move(rank, { collectiveEntered: 1_000n });
    while (core.job.stage !== "answering") cluster.pass(10, () => {});
    for (const nodeId of NODES) cluster.heard.add(nodeId);
    for (const rank of [0, 2, 3]) answers(rank);
    while (core.nowMs - sinceMs < 10_000) {
      cluster.pass(10, () => {});
      if (core.job.kills.size > 0) return core.nowMs - sinceMs;
    }
    return null;
  }

  test("it is the one that stands there still when the others have left, named within 3 steps and 2 s", () => {
    const cluster = new Cluster();
    const nodeOf = (rank: number) => cluster.core.job.generation!.rankNodes[rank]!;
    assert.ok(namedMs(cluster, (rank) => cluster.core.failed(nodeOf(rank), rank, "COMM_ABORTED"))! <= AIM_MS);
    assert.deepEqual([...cluster.core.job.kills.keys()], [1]);
  });

  test("others that have left and whose answers are under way are not taken for it", () => {
    const cluster = new Cluster();
    cluster.core.take();
    const left = (rank: number) => {
      if (rank === 0) cluster.core.failed("n0", 0, "COMM_ABORTED");
      else cluster.move(rank, { collectiveCompleted: 1_000n, phase: "idle" });
    };
    namedMs(cluster, left);
    assert.deepEqual([...cluster.core.job.kills.keys()], [1]);
  });

  test("others that have left late, since all that their node was told came late and at once, are not taken for it", () => {
    const cluster = new Cluster();
    const { core } = cluster;
    for (const rank of [0, 1, 2, 3]) cluster.move(rank, { collectiveEntered: 1_000n });
    assert.ok(cluster.verdictMs(5_000) !== null);
    cluster.silent.add("n1");
    cluster.pass(100, () => {});
    core.failed("n0", 0, "COMM_ABORTED");
    cluster.pass(900, () => {});
    cluster.silent.delete("n1");
    const heard = { term: 1n, commandId: BigInt(core.state.commandLast) };
    core.heartbeat("n1", 1, cluster.told("n1"), null, heard);
    cluster.pass(10, () => {});
    for (const rank of [2, 3]) core.failed("n1", rank, "COMM_ABORTED");
    cluster.pass(1_000, () => {});
    assert.deepEqual([...core.job.kills.keys()], [1]);
  });

  test("where nobody has answered yet, all are given their time", () => {
    const cluster = new Cluster();
    const tookMs = namedMs(cluster, () => {});
    assert.ok(tookMs! >= 1_500 + cluster.core.state.config.limits.answerMs);
  });
});
