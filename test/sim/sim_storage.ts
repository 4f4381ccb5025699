import { currentLine, onLine } from "../../checkpoint/lineage.js";
import type { CheckpointEntry } from "../../checkpoint/load.js";
import { planRetention } from "../../checkpoint/retention.js";
import type { FoundCheckpoint, StateName } from "../../controller/core/contract.js";
import { compareStates, sameState, stateKey } from "../../controller/core/state_name.js";
import { type Content, stored } from "./sim_content.js";

/** A committed checkpoint. States of several generations may stand in one folder. */
export interface DurableTruth {
  uri: string;
  content: Content;
  /** Some chunk of it does not match its digest. */
  corrupt: boolean;
}

/** Where the checkpoints of one job are: parts that agents have written, and what was committed of them. */
export class SimStorage {
  readonly uri: string;
  readonly keepLast: number;
  /** Oldest state first. */
  durable: DurableTruth[] = [];
  /** States that somebody removed by hand, by their keys. */
  readonly lost = new Map<string, StateName>();
  /** Files by which agents show that the folder is shared: generation and node. */
  readonly written = new Set<string>();
  /** Ranks whose part is written, by generation that saves and state. */
  readonly #parts = new Map<string, Set<number>>();

  constructor(uri: string, keepLast: number) {
    this.uri = uri;
    this.keepLast = keepLast;
  }

  write(generation: number, state: StateName, rank: number): void {
    const key = `${generation} ${stateKey(state)}`;
    this.#parts.set(key, (this.#parts.get(key) ?? new Set<number>()).add(rank));
  }

  isComplete(generation: number, state: StateName, worldSize: number): boolean {
    return this.#parts.get(`${generation} ${stateKey(state)}`)?.size === worldSize;
  }

  find(state: StateName): DurableTruth | null {
    return this.durable.find(({ content }) => sameState(content.state, state)) ?? null;
  }

  /** Whether the state of that step is there, or would be if nobody had removed it. */
  hasSaved(step: number): boolean {
    const states = [...this.durable.map(({ content }) => content.state), ...this.lost.values()];
    return states.some((state) => state.step === step);
  }

  /** The folder of that step. */
  uriOf({ step }: StateName): string {
    return `${this.uri}/checkpoint-${step}`;
  }

  /** What is there of that name already is left as it is, unless it is damaged. */
  commit(content: Content): void {
    const { state } = content;
    if (this.find(state)?.corrupt === false) return;
    this.durable = this.durable.filter((each) => !sameState(each.content.state, state));
    this.durable.push({ uri: this.uriOf(state), content, corrupt: false });
    this.durable.sort((a, b) => compareStates(a.content.state, b.content.state));
  }

  /** As `findCommitted` lists them. */
  committed(): FoundCheckpoint[] {
    return this.durable.map(({ uri, content: { state } }) => ({
      uri,
      state,
      bytes: 1_000,
      committedAtMs: 0,
    }));
  }

  /** By somebody's hand. */
  lose({ content }: DurableTruth): void {
    this.lost.set(stateKey(content.state), content.state);
    this.durable = this.durable.filter((each) => each.content !== content);
  }

  /** What the committing agent does after each commit. */
  prune(): void {
    const { remove } = planRetention({ entries: this.#entries(), keepLast: this.keepLast });
    const doomed = new Set(remove.map(({ step }) => step));
    this.durable = this.durable.filter(({ content }) => !doomed.has(content.state.step));
  }

  /** As `listCheckpoints` finds them. */
  #entries(): CheckpointEntry[] {
    const found = this.durable.map(({ uri, content: { state, parent } }) => ({
      step: state.step,
      state: stored(state),
      parent: parent === null ? null : stored(parent),
      uri,
      bytes: 1,
      layout: { dp_replicate: 1, dp_shard: 1, sp: 1 },
      committedAt: "",
    }));
    const line = currentLine(found);
    return found.map((entry) => ({ ...entry, current: onLine(line, entry.state) }));
  }
}
