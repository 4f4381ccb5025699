import { Layout } from "../../job/layout.js";
import type { VoteResult } from "../../worker/parallel/vote.js";
import { judgeMoved, judgeReplay, mayBeMoved, type Replay } from "../../worker/rank/judge_replay.js";
import type { Wrong } from "./sim_node.js";

/** What one try at a step came to, as far as its numbers are concerned. */
interface Try {
  packLosses: number[];
  /** Data ranks whose losses a device got wrong. */
  wrong: ReadonlySet<number>;
  normFinite: boolean;
}

export interface StepNumbers {
  /** The step changes the weights. */
  finite: boolean;
  replay: Replay | null;
}

/**
 * The numbers of one step, tried as often as ranks do: once; again where they are not finite; a third time, by other ranks, where
 * they were the same again. What that shows is judged by the real code.
 */
export class TriedStep {
  readonly #layout: Layout;
  readonly #packs: number;
  /** Pack whose loss is not finite, whoever computes it; null: there is none. */
  readonly #badPack: number | null;
  readonly #tries: Try[] = [];

  constructor(options: { layout: string; packs: number; badPack: number | null }) {
    this.#layout = Layout.parse(options.layout);
    this.#packs = options.packs;
    this.#badPack = options.badPack;
  }

  /** All ranks have computed it once more. Null: they are to compute it again. @param wrongOf what the device of a rank does now */
  attempt(wrongOf: (rank: number) => Wrong | null): StepNumbers | null {
    const isMoved = this.#tries.length === 2;
    const now = this.#compute(wrongOf, isMoved ? 1 : 0);
    this.#tries.push(now);
    const [first, second] = this.#tries;
    if (second === undefined) return areFinite(now) ? { finite: true, replay: null } : null;
    const atHome = this.#vote(second, first!);
    const replay = { ...judgeReplay(this.#vote(first!, null), atHome), loss: null, gradient: null };
    if (!isMoved) {
      if (!areFinite(now) && mayBeMoved(replay, this.#layout)) return null;
      return { finite: areFinite(now), replay };
    }
    const homeRanks = judgeMoved(atHome, this.#vote(now, null), this.#layout);
    return { finite: false, replay: { ...replay, homeRanks } };
  }

  #compute(wrongOf: (rank: number) => Wrong | null, moved: number): Try {
    const { dataRankCount, worldSize } = this.#layout;
    const wrong = new Set<number>();
    let gradients = false;
    for (let rank = 0; rank < worldSize; rank++) {
      const how = wrongOf(rank);
      if (how === "gradients") gradients = true;
      else if (how !== null) wrong.add(this.#layout.dataRank(rank));
    }
    const packLosses = Array.from({ length: this.#packs }, (_, slot) =>
      slot === this.#badPack || wrong.has((slot + moved) % dataRankCount) ? Number.NaN : 1,
    );
    return { packLosses, wrong, normFinite: !gradients && packLosses.every(Number.isFinite) };
  }

  #vote(one: Try, before: Try | null): VoteResult {
    const { worldSize, shardGroupSize } = this.#layout;
    const differences =
      before === null
        ? null
        : Array.from({ length: worldSize }, (_, rank) => ({
            losses: this.#hasOther(one, before, this.#layout.dataRank(rank)),
            norm: rank < shardGroupSize && one.normFinite !== before.normFinite,
          }));
    return {
      step: 0,
      loss: 0,
      gradNorm: 0,
      finite: areFinite(one),
      numbersFinite: areFinite(one),
      packLosses: one.packLosses,
      work: 0,
      differences,
      snapshotWhole: true,
      slotFree: true,
      save: false,
      stop: false,
      yield: false,
      replicated: false,
      replicaLost: false,
      excluded: [],
    };
  }

  /** Its losses are others than before; a rank without a pack has none. */
  #hasOther(one: Try, before: Try, dataRank: number): boolean {
    return dataRank < this.#packs && one.wrong.has(dataRank) !== before.wrong.has(dataRank);
  }
}

function areFinite({ packLosses, normFinite }: Try): boolean {
  return normFinite && packLosses.every(Number.isFinite);
}
