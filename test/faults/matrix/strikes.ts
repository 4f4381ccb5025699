import type { Moment } from "./cell.js";
import type { CellRun } from "./cell_run.js";
import type { FaultRow, Strike } from "./fault_row.js";

/** The rank that faults strike; the first fault of "recovering" strikes rank 0, on another node. */
export const RANK = 3;
const STEP = 14;
export const PLACES: Record<Moment, string> = {
  computing: `forward.block@${STEP}/${RANK}`,
  collective: `collective.entered@${STEP}/${RANK}`,
  saving: `snapshot.write@${STEP}/${RANK}`,
  forming: `connect.before/${RANK}`,
  recovering: `restore.before/${RANK}`,
};
/** Where the agent of the rank stands in a durable save. */
const DURABLE_SAVE = `save.write@10/${RANK}`;
/** Another fault, and the restore that follows it: the second that rank 3 passes. */
const FIRST_FAULT = [`vote.before@${STEP}/0:kill`, `restore.before/${RANK}:mark`];
/** Longer than the silence that makes a node unreachable and than the limit of a stall together. */
const CUT = { seconds: 10, steps: 5 };

export const ALL: readonly Moment[] = ["computing", "collective", "saving", "forming", "recovering"];
export const IN_STEPS: readonly Moment[] = ["computing", "collective", "saving"];

function strike(moment: Moment, place: string, action: string, act: Strike["act"]): Strike {
  const at = `${place}:${action}`;
  return { failpoints: [...(moment === "recovering" ? FIRST_FAULT : []), at], at, act };
}

/** What a rank does to itself needs nothing from outside. */
function ofItself(run: CellRun): Promise<void> {
  run.harmed.add(run.nodeOf(RANK));
  return run.takeCopies();
}

/** A fault that a rank does to itself. */
export function inRank(action: string): FaultRow["strikes"] {
  return Object.fromEntries(ALL.map((moment) => [moment, strike(moment, PLACES[moment], action, ofItself)]));
}

/** A fault from outside while the rank, in a durable save its agent, stands at the moment's place; then it goes on. */
export function outside(
  harm: (run: CellRun, moment: Moment) => void | Promise<void>,
  options: {
    saving?: string;
    /** What the fault has to wait for; its time begins after that. */
    first?: (run: CellRun, moment: Moment) => Promise<void>;
    afterwards?: (run: CellRun, moment: Moment) => Promise<void>;
    moments?: readonly Moment[];
    /** Failpoints of the whole run. */
    always?: readonly string[];
  } = {},
): FaultRow["strikes"] {
  const nothing = async () => {};
  const { saving = DURABLE_SAVE, first = nothing, afterwards = nothing } = options;
  const { moments = ALL, always = [] } = options;
  return Object.fromEntries(
    moments.map((moment) => {
      const place = moment === "saving" ? saving : PLACES[moment];
      const one = strike(moment, place, "hold", async (run) => {
        await first(run, moment);
        await run.strike(() => harm(run, moment));
        run.release(one.at);
        await afterwards(run, moment);
      });
      return [moment, { ...one, failpoints: [...always, ...one.failpoints] }];
    }),
  );
}

/** As often as a save is tried: the five parts are of the same place. */
export function everySave(action: string): FaultRow["strikes"] {
  const failpoints = ["10", "010", "0010", "00010", "000010"].map(
    (step) => `save.write@${step}/${RANK}:${action}`,
  );
  return { saving: { failpoints, at: failpoints[0]!, act: (run) => run.takeCopies() } };
}

/** A fault in rank 3 at a place of a step while its agent stands in a durable save of an earlier one; then that goes on. */
function whileSaving(place: string, action: string): Strike {
  const save = `${DURABLE_SAVE}:hold`;
  const at = `${place}:${action}`;
  const act = async (run: CellRun) => {
    await ofItself(run);
    run.release(save);
  };
  return { failpoints: [save, at], at, act };
}

/** A fault in rank 3 in the first step after the recovery from another fault, which is over only once that step is done. */
function inFirstStepAfter(place: string, action: string): Strike {
  const at = `${place}:${action}`;
  return { failpoints: [`vote.before@${STEP}/0:kill`, `${place}:mark`, at], at, act: ofItself };
}

const DATA = `data.before@${STEP}/${RANK}`;
export const dataStalls: FaultRow["strikes"] = {
  computing: strike("computing", DATA, "stall", ofItself),
  saving: whileSaving(DATA, "stall"),
  recovering: inFirstStepAfter(DATA, "stall"),
};

export const notANumber: FaultRow["strikes"] = {
  computing: strike("computing", PLACES.computing, "nan", ofItself),
  collective: strike("collective", `vote.before@${STEP}/${RANK}`, "nan", ofItself),
  saving: whileSaving(PLACES.computing, "nan"),
  // Rank 0 is killed before rank 3 can have its weights of that step, which is first computed with after the recovery.
  recovering: {
    failpoints: [`data.before@${STEP}/0:kill`, `${PLACES.computing}:nan`],
    at: `${PLACES.computing}:nan`,
    act: ofItself,
  },
};

/** Found by the check before the vote of that step. */
export const weightsFlip: FaultRow["strikes"] = {
  computing: strike("computing", DATA, "flip", ofItself),
  collective: strike("collective", `vote.before@${STEP}/${RANK}`, "flip", ofItself),
  saving: whileSaving(DATA, "flip"),
  recovering: inFirstStepAfter(DATA, "flip"),
};

/** Cut while training goes on, or for as long as a generation would need to be given up. */
export function cutController(cut: (run: CellRun, node: string) => void): FaultRow["strikes"] {
  const strikes = cutWhile(cut);
  const { recovering } = strikes;
  if (recovering === undefined) return strikes;
  // Steps of seconds and slow copies: what lies in that node's memory, which its peers reach, is worth a try to read.
  const slow = {
    failpoints: [`backward.block@1/${RANK}:slow=1500`, ...recovering.failpoints],
    steps: 24,
    overrides: ["checkpoint.every_steps=100", "checkpoint.replica_mib_per_second=0.1"],
  };
  return { ...strikes, recovering: { ...recovering, ...slow } };
}

function cutWhile(cut: (run: CellRun, node: string) => void): FaultRow["strikes"] {
  return outside(
    (run) => {
      run.harmed.add(run.nodeOf(RANK));
      cut(run, run.nodeOf(RANK));
    },
    {
      afterwards: async (run, moment) => {
        if (IN_STEPS.includes(moment)) {
          await run.trains(CUT);
          await run.giveBack(() => run.network!.heal());
        }
      },
    },
  );
}

export const stays = async (run: CellRun, moment: Moment) => {
  if (IN_STEPS.includes(moment)) await run.trains({ seconds: 0, steps: 5 });
};

const HOUR_MS = 3_600_000;
export function setClock(member: (run: CellRun) => string): FaultRow["strikes"] {
  return outside((run) => run.setClock(member(run), HOUR_MS), {
    afterwards: async (run, moment) => {
      await stays(run, moment);
      await run.setClock(member(run), -HOUR_MS);
    },
  });
}

export const slows: FaultRow["strikes"] = {
  computing: strike("computing", `forward.block@40/${RANK}`, "slow=25", ofItself),
};

export const stopLeader = outside((run) => run.signal("controller", "SIGSTOP"), {
  afterwards: async (run, moment) => {
    await run.standbyLeads();
    await stays(run, moment);
    await run.giveBack(() => run.signal("controller", "SIGCONT")); // it believes that it leads, until the store tells
  },
});

/** Ends so many members of etcd, the leading one first, and starts them again later. */
export function loseEtcd(count: number): FaultRow["strikes"] {
  return outside((run) => run.loseEtcd(count), {
    afterwards: async (run, moment) => {
      const quorum = count === 1;
      if (quorum) await run.elected();
      if (IN_STEPS.includes(moment)) await run.trains(CUT);
      else await run.pause(1000 * CUT.seconds);
      await run.giveBack(() => run.etcdReturns());
      if (!quorum) await run.elected();
    },
  });
}
