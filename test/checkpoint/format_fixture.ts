import { laterCommitName } from "../../checkpoint/names.js";
import { stateKey } from "../../checkpoint/state.js";
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
    const meta = metaOf(of, layout, { parent: state(2, 6) });
    const place = `${slots}/${stateKey(of)}`;
    return saveAndCommit({ storage: uri, model: FIXTURE_MODEL, layout, meta, slots: place, ...more });
  };
  await save(first, "1x1x1", { generation: "4" });
  await save(second, "2x4x1");
}
