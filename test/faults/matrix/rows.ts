import type { FaultRow } from "./fault_row.js";
import {
  ALL,
  cutController,
  dataStalls,
  everySave,
  IN_STEPS,
  inRank,
  loseEtcd,
  notANumber,
  outside,
  PLACES,
  RANK,
  setClock,
  slows,
  stays,
  stopLeader,
  weightsFlip,
} from "./strikes.js";

function row(row: Pick<FaultRow, "id" | "title" | "class" | "strikes"> & Partial<FaultRow>): FaultRow {
  return {
    absent: "",
    nodes: 3,
    restart: true,
    steps: 30,
    overrides: [],
    untoldMax: 0,
    quiet: [],
    culprit: (run) => ({ kind: "rank", rank: RANK, node: run.nodeOf(RANK) }),
    code: null,
    control: null,
    replacedMax: 1,
    needs: "nothing",
    etcd: null,
    ...row,
  };
}

const itsNode: FaultRow["culprit"] = (run) => ({ kind: "nodes", nodes: [run.nodeOf(RANK)] });
const bothNodes: FaultRow["culprit"] = (run) => ({ kind: "nodes", nodes: [...new Set(run.nodesBefore)] });

/**
 * A lost node is waited for where it alone holds the newest state: not the minute that is usual. A rank that stands still until
 * a copy is made is not to be taken for one that hangs.
 */
const GRACE = ["recovery.node_grace_seconds=5", "recovery.stall_seconds=20"];

/** As jobs have it by default. */
const HANGS = ["recovery.stall_seconds=1.5"];

/** Steps of a run in which something lasts ten seconds. */
const LONG = { steps: 400, overrides: ["checkpoint.every_steps=10"] };

export const ROWS: readonly FaultRow[] = [
  row({ id: "sigkill", title: "rank killed (SIGKILL)", class: "death", strikes: inRank("kill") }),
  row({
    id: "sigstop",
    title: "rank stopped (SIGSTOP)",
    class: "hang",
    strikes: inRank("stop"),
    overrides: HANGS,
  }),
  row({ id: "segfault", title: "rank: segmentation fault", class: "death", strikes: inRank("segfault") }),
  row({
    id: "oom",
    title: "rank out of memory, killed by the kernel",
    class: "death",
    code: "NODE_OUT_OF_MEMORY",
    needs: "memory limits",
    strikes: outside(
      (run) => {
        run.harmed.add(run.nodeOf(RANK));
        return run.exhaust(RANK);
      },
      { saving: PLACES.saving },
    ),
  }),
  row({ id: "throw", title: "rank ends with an error of its own", class: "death", strikes: inRank("throw") }),
  row({
    id: "hang",
    title: "rank hangs (its thread blocks)",
    class: "hang",
    strikes: inRank("stall"),
    overrides: HANGS,
  }),
  row({
    id: "hang-data",
    title: "rank hangs in data loading",
    class: "hang",
    strikes: dataStalls,
    overrides: HANGS,
    absent: "no data is loaded then",
  }),
  row({ id: "nan", title: "NaN", class: "wrong", strikes: notANumber, absent: "no number is computed then" }),
  row({
    id: "full-disk",
    title: "full disk",
    class: "disk",
    quiet: ["saving"],
    culprit: itsNode,
    strikes: everySave("enospc"),
    absent: "a disk shows it only when it is written to: as while saving",
  }),
  row({
    id: "dead-disk",
    title: "dead disk",
    class: "disk",
    quiet: ["saving"],
    culprit: itsNode,
    strikes: everySave("eio"),
    absent: "a disk shows it only when it is written to: as while saving",
  }),
  row({
    id: "flip-weights",
    title: "bit flip in weights",
    class: "wrong",
    strikes: weightsFlip,
    absent: "there are no weights yet",
  }),
  row({
    id: "flip-snapshot",
    title: "bit flip in a snapshot, its rank killed",
    class: "copies",
    strikes: outside((run) => run.flipSlotAndKill(RANK), {
      saving: PLACES.saving,
      moments: [...IN_STEPS, "recovering"],
    }),
    absent: "there is no snapshot then",
  }),
  row({
    id: "flip-replica",
    title: "bit flip in a replica, its rank's node lost",
    class: "copies",
    culprit: itsNode,
    restart: false,
    untoldMax: 5,
    overrides: GRACE,
    strikes: outside((run) => run.flipReplicaAndLose(RANK), { moments: [...IN_STEPS, "recovering"] }),
    absent: "there is no replica then",
  }),
  row({
    id: "agent",
    title: "agent killed, started again",
    class: "node",
    culprit: itsNode,
    untoldMax: 5,
    // Steps of half a second and slow copies: what only that node's memory holds is worth waiting for, as with real steps.
    overrides: ["checkpoint.replica_mib_per_second=0.5"],
    strikes: outside(
      (run) => {
        run.harmed.add(run.nodeOf(RANK));
        return run.cluster.kill(run.nodeOf(RANK));
      },
      { always: [`backward.block@1/${RANK}:slow=250`] },
    ),
  }),
  row({
    id: "node",
    title: "node lost with its memory",
    class: "node",
    culprit: itsNode,
    restart: false,
    untoldMax: 5,
    overrides: GRACE,
    strikes: outside((run) => run.lose(run.nodeOf(RANK)), {
      // Copies are made while ranks train, and not by an agent that stands in a save.
      first: async (run, moment) => {
        if (moment === "computing" || moment === "collective") await run.replicated([run.nodeOf(RANK)]);
      },
    }),
  }),
  row({
    id: "node-dark",
    title: "node without power: nobody hears of its end",
    class: "node",
    culprit: itsNode,
    restart: false,
    untoldMax: 5,
    needs: "network",
    overrides: [...HANGS, "recovery.node_grace_seconds=5"],
    strikes: outside((run) => run.goesDark(run.nodeOf(RANK))),
  }),
  row({
    id: "node-pair",
    title: "node lost together with its replica partner",
    class: "node",
    culprit: bothNodes,
    nodes: 4,
    restart: false,
    untoldMax: 5,
    replacedMax: 2,
    overrides: GRACE,
    strikes: outside(
      async (run) => {
        for (const node of new Set(run.nodesBefore)) await run.lose(node);
      },
      {
        first: async (run, moment) => {
          if (moment !== "forming" && moment !== "saving") await run.durable();
        },
      },
    ),
  }),
  row({
    id: "controller",
    title: "controller killed, back after some steps",
    class: "controller",
    culprit: () => ({ kind: "controller" }),
    control: "controller",
    restart: false,
    untoldMax: 5,
    steps: 60,
    quiet: IN_STEPS, // what is half formed a new leader forms anew
    strikes: outside((run) => run.cluster.kill("controller"), {
      afterwards: async (run, moment) => {
        await stays(run, moment);
        await run.giveBack(() => run.cluster.local.startController());
      },
    }),
  }),
  row({
    id: "cut-controller",
    title: "agent cut from the controller",
    class: "sight",
    culprit: itsNode,
    needs: "network",
    quiet: IN_STEPS,
    ...LONG,
    strikes: cutController((run, node) => run.network!.cut(node, "controller")),
  }),
  row({
    id: "cut-to-controller",
    title: "agent cut from the controller, its own sends only",
    class: "sight",
    culprit: itsNode,
    needs: "network",
    quiet: IN_STEPS,
    ...LONG,
    strikes: cutController((run, node) => run.network!.cutOneWay(node, "controller")),
  }),
  row({
    id: "cut-from-controller",
    title: "agent cut from the controller, the controller's sends only",
    class: "sight",
    culprit: itsNode,
    needs: "network",
    quiet: IN_STEPS,
    ...LONG,
    strikes: cutController((run, node) => run.network!.cutOneWay("controller", node)),
  }),
  row({
    id: "cut-nodes",
    title: "network cut between two nodes",
    class: "network",
    culprit: bothNodes,
    needs: "network",
    overrides: HANGS,
    strikes: outside((run) => {
      for (const node of run.nodesBefore) run.harmed.add(node);
      run.network!.cut(run.nodeOf(0), run.nodeOf(RANK));
    }),
  }),
  row({
    id: "cut-nodes-one-way",
    title: "network cut between two nodes, one way",
    class: "network",
    culprit: bothNodes,
    needs: "network",
    overrides: HANGS,
    strikes: outside((run) => {
      for (const node of run.nodesBefore) run.harmed.add(node);
      run.network!.cutOneWay(run.nodeOf(0), run.nodeOf(RANK));
    }),
  }),
  row({
    id: "clock-controller",
    title: "clock of the controller jumps an hour ahead, then two back",
    class: "clock",
    culprit: () => ({ kind: "nothing" }),
    control: "clock",
    quiet: ALL,
    strikes: setClock(() => "controller"),
  }),
  row({
    id: "clock-node",
    title: "clock of a node jumps an hour ahead, then two back",
    class: "clock",
    culprit: () => ({ kind: "nothing" }),
    control: "clock",
    quiet: ALL,
    strikes: setClock((run) => run.nodeOf(RANK)),
  }),
  row({
    id: "slow",
    title: "slow rank, from step 40 on",
    class: "wrong",
    ...LONG,
    overrides: ["recovery.replace_stragglers=true"],
    strikes: slows,
    absent: "judged over many steps, whatever is done in them",
  }),
  row({
    id: "leader",
    title: "leader deposed but alive (stopped until a standby leads)",
    class: "controller",
    culprit: () => ({ kind: "controller" }),
    control: "leader",
    needs: "etcd",
    etcd: { members: 1, standbys: 1 },
    quiet: IN_STEPS,
    ...LONG,
    untoldMax: 100, // what it was told while it stood still
    strikes: stopLeader,
  }),
  row({
    id: "etcd-member",
    title: "one of three etcd members lost, the leading one",
    class: "etcd",
    culprit: (run) => run.etcdCulprit,
    control: "etcd",
    needs: "etcd",
    etcd: { members: 3, standbys: 0 },
    quiet: ALL,
    ...LONG,
    strikes: loseEtcd(1),
  }),
  row({
    id: "etcd-quorum",
    title: "etcd's quorum lost, back later",
    class: "etcd",
    culprit: (run) => run.etcdCulprit,
    control: "etcd",
    needs: "etcd",
    etcd: { members: 3, standbys: 0 },
    quiet: IN_STEPS,
    ...LONG,
    untoldMax: 100,
    strikes: loseEtcd(2),
  }),
];
