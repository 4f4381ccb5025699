import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import path from "node:path";
import { after } from "node:test";
import { Layout } from "../../../job/layout.js";
import { layoutOf, metaOf, modelOf, saveAndCommit, state } from "../../checkpoint/fixtures.js";
import { runRanks } from "../../support/rank_process.js";
import type { LoadCase, LoadFound, LoadResult, LoadTask } from "./load_rank.js";

/** Of all checkpoints here. */
const STATE = state(2, 8);

/** Saves and loads by real ranks, in a folder that goes away with the test file. */
export class Loads {
  private readonly scratch = mkdtempSync("/dev/shm/goku-load-");
  private folders = 0;

  constructor() {
    after(() => rmSync(this.scratch, { recursive: true, force: true }));
  }

  /** The root of a run with a committed checkpoint, as `from` has saved it. */
  async saved(from: string, shapes: Record<string, number[]>): Promise<string> {
    const root = path.join(this.scratch, `run-${this.folders++}`);
    const layout = layoutOf(from);
    const meta = metaOf(STATE, layout);
    const slots = path.join(this.scratch, `slots-${this.folders++}`);
    await saveAndCommit({ storage: root, model: modelOf(shapes), layout, meta, slots });
    rmSync(slots, { recursive: true });
    return root;
  }

  /** What each rank of each case found, one set of processes for all. */
  async load(cases: readonly LoadCase[]): Promise<(LoadFound | string)[][]> {
    const worlds = cases.map(({ to }) => Layout.parse(to).worldSize);
    const folder = mkdtempSync(path.join(this.scratch, "pages-"));
    const module = new URL("./load_rank.js", import.meta.url);
    const task = { cases: [...cases], folder };
    const results = await runRanks<LoadTask, LoadResult>(module, Math.max(...worlds), task);
    return cases.map((_, i) => results.map((result) => result[i]!).filter((found) => found !== null));
  }
}

export function loadCase(
  shapes: Record<string, number[]>,
  root: string,
  to: string,
  more: Partial<LoadCase> = {},
): LoadCase {
  return { shapes, root, state: STATE, to, lacking: null, aborted: null, ...more };
}

/** Every rank has every bit that it should have, and nothing else is left. */
export function wholeLoads(found: readonly (LoadFound | string)[], what: string): LoadFound[] {
  return found.map((one) => {
    if (typeof one === "string") throw new Error(`${what}: ${one}`);
    assert.equal(one.fault, "", what);
    assert.equal(one.live, 0, `${what}: tensors are left`);
    return one;
  });
}

export const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0);
