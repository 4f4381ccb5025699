import { Layout } from "../../job/layout.js";
import type { VoteResult } from "../../worker/parallel/vote.js";
import type { BadNumbers } from "../../worker/rank/judge_numbers.js";
import { judgeMoved, judgeReplay, mayBeMoved } from "../../worker/rank/judge_replay.js";
import type { TriedStep as Tried } from "../../worker/rank/retry_step.js";
import type { Wrong } from "./sim_node.js";

/** What is wrong with the data of a step, whoever computes it: a pack is not finite, or its loss or gradient is a spike. */
export type BadData = "notFinite" | "loss" | "gradient";

/** How far above the usual a spike is. */
const SPIKE = { loss: 8, gradient: 30 };

/** What one try at a step came to, as far as its numbers are concerned. */
interface Try {
  packLosses: number[];
  /** Data ranks whose losses a device got wrong. */
  wrong: ReadonlySet<number>;
  gradNorm: number;
}

interface StepOptions {
  layout: string;
  packs: number;
  /** What the step comes to where nothing is wrong. */
  ordinary: { loss: number; gradNorm: number };
  bad: { pack: number; what: BadData } | null;
  judge: (vote: VoteResult) => BadNumbers | null;
}

/**
 * The numbers of one step, tried as often as ranks do: once; again where they are bad; a third time, by other ranks, where they
 * were the same again. What that shows is judged by the real code.
 */
export class TriedStep {
  readonly #layout: Layout;
  readonly #options: StepOptions;
  readonly #tries: Try[] = [];

  constructor(options: StepOptions) {
    this.#layout = Layout.parse(options.layout);
    this.#options = options;
  }

  /** All ranks have computed it once more. Null: they are to compute it again. @param wrongOf what the device of a rank does now */
  attempt(wrongOf: (rank: number) => Wrong | null): Tried | null {
    const { judge } = this.#options;
    this.#tries.push(this.#compute(wrongOf, this.#tries.length === 2 ? 1 : 0));
    const [one, two, three] = this.#tries;
    const first = this.#vote(one!, null);
    if (two === undefined)
      return judge(first) === null ? { vote: first, bad: null, replay: null, first } : null;
    const second = this.#vote(two, one!);
    const replay = judgeReplay(first, second);
    const bad = judge(second);
    if (bad === null || bad.isTaken || !mayBeMoved(replay, this.#layout))
      return { vote: second, bad, replay, first };
    if (three === undefined) return null;
    const homeRanks = judgeMoved(second, this.#vote(three, null), this.#layout);
    return { vote: { ...second, finite: false }, bad, replay: { ...replay, homeRanks }, first };
  }

  #compute(wrongOf: (rank: number) => Wrong | null, moved: number): Try {
    const { packs, ordinary, bad } = this.#options;
    const { dataRankCount, worldSize } = this.#layout;
    const wrong = new Map<number, Wrong>();
    let gradNorm = ordinary.gradNorm;
    for (let rank = 0; rank < worldSize; rank++) {
      const how = wrongOf(rank);
      if (how === "gradients") gradNorm = Number.NaN;
      else if (how !== null) wrong.set(this.#layout.dataRank(rank), how);
    }
    const packLosses = Array.from({ length: packs }, (_, slot) => {
      const own = ordinary.loss / packs;
      const how = wrong.get((slot + moved) % dataRankCount);
      if (how !== undefined) return how === "surge" ? own * dataRankCount * SPIKE.loss : Number.NaN;
      if (slot !== bad?.pack || bad.what === "gradient") return own;
      return bad.what === "loss" ? own * packs * SPIKE.loss : Number.NaN;
    });
    if (bad?.what === "gradient") gradNorm *= SPIKE.gradient;
    if (!packLosses.every(Number.isFinite)) gradNorm = Number.NaN;
    return { packLosses, wrong: new Set(wrong.keys()), gradNorm };
  }

  #vote(one: Try, before: Try | null): VoteResult {
    const { worldSize, shardGroupSize } = this.#layout;
    const differences =
      before === null
        ? null
        : Array.from({ length: worldSize }, (_, rank) => ({
            losses: this.#hasOther(one, before, this.#layout.dataRank(rank)),
            norm: rank < shardGroupSize && !Object.is(one.gradNorm, before.gradNorm),
          }));
    const loss = one.packLosses.reduce((sum, each) => sum + each, 0);
    return voteOf({ ...one, loss, differences });
  }

  /** Its losses are others than before; a rank without a pack has none. */
  #hasOther(one: Try, before: Try, dataRank: number): boolean {
    return dataRank < this.#options.packs && one.wrong.has(dataRank) !== before.wrong.has(dataRank);
  }
}

/** What a step comes to on devices that are right. */
export function ordinaryVote(step: Pick<StepOptions, "packs" | "ordinary" | "bad">): VoteResult {
  return new TriedStep({ ...step, layout: "1x1x1", judge: () => null }).attempt(() => null)!.vote;
}

/** A step that a roll-back leaves out: only its vote is held. */
export function passedOver(): Tried {
  const vote = voteOf({ packLosses: [], loss: 0, gradNorm: 0, differences: null });
  return { vote, bad: null, replay: null, first: vote };
}

/** What it says of snapshots and requests is asked of the ranks. */
function voteOf(numbers: Pick<VoteResult, "packLosses" | "loss" | "gradNorm" | "differences">): VoteResult {
  const { packLosses, loss, gradNorm, differences } = numbers;
  const finite = Number.isFinite(loss) && Number.isFinite(gradNorm);
  return {
    step: 0,
    loss,
    gradNorm,
    finite,
    numbersFinite: finite,
    packLosses,
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
