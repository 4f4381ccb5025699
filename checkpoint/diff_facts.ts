import { canonicalJson } from "./canonical_json.js";
import type { Checkpoint } from "./checkpoint.js";
import { stateKey } from "./state.js";

/** One thing that two checkpoints say differently; null: that one does not have it. */
export interface FactDiff {
  /** `state`, `parent`, `job.optimizer.lr`, `parameter blocks.0.norm2.weight`. */
  fact: string;
  a: unknown;
  b: unknown;
}

/** What differs between two states beside the numbers in their tensors. Reads nothing. */
export function diffFacts(a: Checkpoint, b: Checkpoint): FactDiff[] {
  const [left, right] = [factsOf(a), factsOf(b)];
  return [...new Set([...left.keys(), ...right.keys()])].flatMap((fact) => {
    const pair = { fact, a: left.get(fact) ?? null, b: right.get(fact) ?? null };
    return canonicalJson(pair.a) === canonicalJson(pair.b) ? [] : [pair];
  });
}

/** The layout that the files were written by is no fact of the state: it depends on who saved it last. */
function factsOf({ meta, kinds, specs }: Checkpoint): Map<string, unknown> {
  const facts = new Map<string, unknown>([
    ["state", stateKey(meta.state)],
    ["parent", meta.parent === null ? null : stateKey(meta.parent)],
    ["layout", Object.values(meta.layout).join("x")],
    ["adam step", meta.adamStep],
    ["data digest", meta.dataDigest],
    ["exclusions", meta.exclusions],
    ["steps left out", meta.leftOut],
    ["codec", meta.codec],
    ["version", meta.version],
    ["kinds", kinds.join(", ")],
  ]);
  addLeaves(facts, "job", meta.job);
  for (const { name, shape } of specs) facts.set(`parameter ${name}`, shape.join(" x "));
  return facts;
}

/** Every value of a job under its dotted key. */
function addLeaves(facts: Map<string, unknown>, key: string, value: unknown): void {
  if (typeof value !== "object" || value === null || Array.isArray(value)) facts.set(key, value);
  else for (const [inner, item] of Object.entries(value)) addLeaves(facts, `${key}.${inner}`, item);
}
