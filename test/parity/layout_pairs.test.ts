import assert from "node:assert/strict";
import { test } from "node:test";
import { Layout } from "../../job/layout.js";
import { modelOf, Random } from "../checkpoint/fixtures.js";
import type { LoadCase } from "../worker/rank/load_rank.js";
import { Loads, loadCase, sum, wholeLoads } from "../worker/rank/loads.js";

/** Real ranks load what ranks of another layout have saved, on whatever backend the tests run: the CPU's, or a device. */
const loads = new Loads();
const RANKS = 6;
const PAIRS = 60;

/** Units smaller than a world, of a few chunks of a MiB, and anything between. */
function randomShapes(random: Random): Record<string, number[]> {
  const shapes: Record<string, number[]> = {};
  const fill = (unit: string) => {
    const rows = random.pick([1, 4, 90, 2_000]);
    for (let i = 0; i < 1 + random.below(3); i++)
      shapes[`${unit}.p${i}`] = [1 + random.below(rows), 1 + random.below(random.pick([2, 9, 150]))];
  };
  fill("patch_embed");
  for (let block = 0; block < 1 + random.below(4); block++) fill(`blocks.${block}`);
  return shapes;
}

const LAYOUTS = Array.from({ length: RANKS }, (_, i) => i + 1).flatMap((world) =>
  [1, 2, 3, 4, 5, 6].flatMap((replicate) =>
    [1, 2, 3, 4, 5, 6]
      .filter((shard) => world % (replicate * shard) === 0)
      .map((shard) => `${replicate}x${shard}x${world / (replicate * shard)}`),
  ),
);

test(`a state of any layout is loaded bit-equal by the ranks of any other, and read once (${PAIRS} random pairs)`, async () => {
  const random = new Random(41);
  const cases: LoadCase[] = [];
  const pairs: string[] = [];
  const met = { replicated: 0, empty: 0, uneven: 0, shared: 0 };
  for (let i = 0; i < PAIRS; i++) {
    const shapes = randomShapes(random);
    const [from, to] = [random.pick(LAYOUTS), random.pick(LAYOUTS)];
    cases.push(loadCase(shapes, await loads.saved(from, shapes), to));
    pairs.push(`pair ${i}, ${from} to ${to}`);
    const parts = Layout.parse(to).shardGroupSize;
    const { units } = modelOf(shapes);
    if (Layout.parse(to).dpReplicate > 1) met.replicated++;
    if (units.some(({ count }) => count > 0 && count <= 16 * (parts - 1))) met.empty++;
    if (units.some(({ count }) => count % (16 * parts) > 0)) met.uneven++;
    if (parts > 1 && Layout.parse(from).shardGroupSize !== parts) met.shared++;
  }
  for (const [i, found] of (await loads.load(cases)).entries()) {
    const ranks = wholeLoads(found, pairs[i]!);
    const stateBytes = 16 * sum(modelOf(cases[i]!.shapes).specs.map(({ count }) => count));
    assert.equal(sum(ranks.map(({ loaded }) => loaded.read)), stateBytes, pairs[i]!);
  }
  assert.ok(Math.min(...Object.values(met)) >= 20, JSON.stringify(met));
});
