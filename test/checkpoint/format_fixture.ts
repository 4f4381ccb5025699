import { laterCommitName } from "../../checkpoint/names.js";
import { type StateMeta, type StateName, stateKey } from "../../checkpoint/state.js";
import type { Layout } from "../../job/layout.js";
import {
  layoutOf,
  metaOf,
  modelOf,
  type SaveSetup,
  saveAndCommit,
  scratchFolder,
  state,
  type TestModel,
} from "./fixtures.js";

/** A checkpoint small enough to lie in git, with everything in it that the format has; its elements are elementBits(). */

export const FIXTURE_MODEL: TestModel = modelOf({
  "patch_embed.weight": [5, 3],
  "patch_embed.bias": [1],
  "blocks.0.norm2.weight": [33],
});

/** The state of a generation that was given up, and the one of the same step that readers take. */
export const FIXTURE_STATES = [state(3, 8), state(5, 8)] as const;

/** What their metas say that older versions did not have: from which version on. */
const HISTORY = {
  leftOut: [
    { first: 2, last: 2, why: "unread" },
    { first: 4, last: 7, why: "roll_back" },
  ],
  numbers: { loss: { values: [0.5, 1 / 3], spikes: 0 }, gradient: { values: [2.25, 1e-9], spikes: 3 } },
} satisfies Partial<StateMeta>;
const HISTORY_VERSION = 2;

/** The meta of one of them, as a reader finds it in the fixture of that format version. */
export function fixtureMeta(of: StateName, layout: Layout, version = HISTORY_VERSION): StateMeta {
  return metaOf(of, layout, { parent: state(2, 6), ...(version < HISTORY_VERSION ? {} : HISTORY) });
}

/** What the second of them becomes beside the first. */
export const FIXTURE_LATER_RECORD = laterCommitName("5");

/**
 * Writes it into an empty folder: a run of one step. Its first state is whole tensors of a single writer but saved by a later
 * generation; the second is cut over more writers than have something to write.
 */
export async function writeFormatFixture(uri: string): Promise<void> {
  const [first, second] = FIXTURE_STATES;
  const slots = scratchFolder();
  const save = (of: typeof first, layoutText: string, more: Partial<SaveSetup> = {}) => {
    const layout = layoutOf(layoutText);
    const meta = fixtureMeta(of, layout);
    const place = `${slots}/${stateKey(of)}`;
    return saveAndCommit({ storage: uri, model: FIXTURE_MODEL, layout, meta, slots: place, ...more });
  };
  await save(first, "1x1x1", { generation: "4" });
  await save(second, "2x4x1");
}
