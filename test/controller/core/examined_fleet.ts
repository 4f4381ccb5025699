import assert from "node:assert/strict";
import { diagnosisView } from "../../../controller/core/views.js";
import type { CheckResult } from "../../../gen/goku/v1/agent.pb.js";
import { CoreHarness } from "./harness.js";

export const result = (name: string, ok = true, value = 10): CheckResult => ({
  name,
  ok,
  value: ok ? value : 0,
  unit: "GB/s",
  detail: ok ? "" : "bits differ",
  seconds: 1,
  device: undefined,
});

/**
 * Agents that answer every self-check: `bad` fail alone, collectives with `deaf` fail, `mute` say nothing.
 */
export class Fleet {
  readonly core = new CoreHarness({ selfCheckMs: 300 });
  bad = new Set<string>();
  deaf = new Set<string>();
  mute = new Set<string>();
  /** How often nodes are still slow alone, and whose collectives are. */
  slow = new Map<string, number>();
  isLame = (_names: string[]) => false;
  /** Budgets of the checks that each node did alone. */
  readonly budgets = new Map<string, number[]>();
  /** Pairs between which collectives fail. */
  cut: [string, string] | null = null;
  #taken = 0;
  #members: string[][] = [];
  /** Groups whose collectives were tried. */
  get groups(): string[][] {
    return this.#members;
  }

  constructor(count: number) {
    this.core.lead();
    for (let i = 0; i < count; i++) this.core.hello(`n${i}`, { host: `10.0.0.${i}` });
    this.run();
  }

  /** Plays the agents until nothing is asked any more. */
  run(): void {
    while (this.#taken < this.core.effects.length) {
      const effect = this.core.effects[this.#taken++]!;
      if (effect.kind !== "send" || this.mute.has(effect.nodeId)) continue;
      const { nodeId, message } = effect;
      if (message.$case === "selfCheck") this.#check(nodeId, message.value);
      if (message.$case === "selfCheckConnect") this.#connect(nodeId, message.value);
    }
  }

  #check(
    nodeId: string,
    { checkId, checks, budgetMs }: { checkId: bigint; checks: string[]; budgetMs: number },
  ): void {
    const collective = checks.includes("collective");
    const value = {
      checkId,
      clockMs: BigInt(this.core.nowMs),
      port: collective ? 9_000 : 0,
      pid: collective ? 77 : 0,
    };
    this.core.say(nodeId, { $case: "selfCheckBegun", value });
    if (collective) return;
    this.budgets.set(nodeId, [...(this.budgets.get(nodeId) ?? []), budgetMs]);
    const left = this.slow.get(nodeId) ?? 0;
    this.slow.set(nodeId, Math.max(0, left - 1));
    const results = [result("memory", !this.bad.has(nodeId)), result("copy", true, left > 0 ? 1 : 10)];
    this.core.say(nodeId, { $case: "selfCheckReport", value: { checkId, results, busy: "" } });
  }

  #connect(nodeId: string, { checkId, members }: { checkId: bigint; members: { nodeId: string }[] }): void {
    const names = members.map((member) => member.nodeId);
    if (names[0] === nodeId) this.#members.push(names);
    const isCut = this.cut?.every((name) => names.includes(name)) ?? false;
    const ok = !isCut && !names.some((name) => this.deaf.has(name));
    const results = [result("collective", ok, this.isLame(names) ? 0.1 : 1)];
    this.core.say(nodeId, { $case: "selfCheckReport", value: { checkId, results, busy: "" } });
  }

  diagnose(nodeIds: string[] = []): void {
    this.core.feed({ kind: "diagnosisRequested", requestId: "d", nodeIds });
    this.run();
  }

  /** Code and message of the last refusal; null: the last request was granted. */
  refusal(): { code: string; message: string } | null {
    const found = this.core.effects.findLast((e) => e.kind === "reply");
    assert.ok(found?.kind === "reply");
    return found.result.ok ? null : found.result;
  }

  get verdicts(): string {
    return this.view.nodes.map(({ nodeId, verdict }) => `${nodeId} ${verdict}`).join(", ");
  }

  get view() {
    return diagnosisView(this.core.state)!;
  }
}
