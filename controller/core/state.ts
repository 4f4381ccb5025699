import type { Connect, NodeEndpoints, StepCompleted } from "../../gen/goku/v1/agent.pb.js";
import type { Device } from "../../job/device.js";
import type { Layout, LayoutSize } from "../../job/layout.js";
import type { Avoided } from "./avoid.js";
import type { KeeperPlan } from "./choose_keepers.js";
import type { RestoreChoice } from "./choose_restore.js";
import type {
  CheckpointEntry,
  CoreLimits,
  DurableWrite,
  Event,
  IncidentRecord,
  JobRecord,
  NodeFate,
  QuarantineRecord,
  StateName,
} from "./contract.js";
import { createEffectiveTime, type EffectiveTime } from "./effective_time.js";
import type { FleetMedians } from "./judge_checks.js";
import type { Fault } from "./judge_fault.js";
import type { NodeSign } from "./judge_signals.js";
import { createNumbers, type NumbersWatch } from "./numbers.js";
import { createPace, type Pace } from "./pace.js";
import type { LayoutChooser } from "./plan_members.js";
import type { PairTrial } from "./plan_pairs.js";
import type { EarlyRead, ReadParts } from "./read_back.js";
import type { RestorePlace } from "./restore_places.js";
import type { PlacesBefore } from "./rung.js";
import type { HeldState, NodeDevice, RankPage } from "./wire.js";

/** Everything the core knows. Owned and changed by `step` alone; views read it. */
export interface CoreState {
  readonly config: CoreConfig;
  /** Null: this controller does not lead, and every event but leadershipGained is dropped. */
  leader: Leader | null;
  commandLast: number;
  generationLast: number;
  jobOrderLast: number;
  nodes: Map<string, NodeState>;
  jobs: Map<string, JobState>;
  quarantine: Map<string, QuarantineRecord>;
  /** Failure domains by node that the platform told; they count before what agents say. Soft: told again to a new leader. */
  domains: Map<string, string>;
  /** What self-checks found, by node. Soft: agents repeat what they passed. */
  health: Map<string, NodeHealth>;
  /** The newest; null: none was asked for since this leader was elected. */
  diagnosis: DiagnosisState | null;
  /** What the readings of all nodes came to last, and how many were compared with that since; null: nothing yet. */
  fleet: { medians: FleetMedians; uses: number } | null;
  /** Numbers self-checks and their collectives. */
  checkLast: number;
  durable: DurableState;
  /** When each armed timer fires. */
  timers: Map<string, number>;
  /** Timers that fired far too late and were given a second time. */
  excused: Set<string>;
  /** Events that came before the leader's term was durable; replayed then. */
  deferred: Event[];
  /** An agent has obeyed a higher term: a higher one is being written, agents' messages wait for it. */
  raising: boolean;
  /** When a node last joined or became free. */
  nodesChangedMs: number;
}

export interface CoreConfig {
  limits: CoreLimits;
  /** Of this controller; agents of another major version are refused. */
  version: string;
  chooseLayout: LayoutChooser;
}

export interface Leader {
  controllerId: string;
  term: number;
  electedMs: number;
  /** The term is durable: commands may go out. */
  ready: boolean;
}

export interface NodeState {
  nodeId: string;
  incarnation: string;
  /** When this agent process was first heard of. */
  joinedMs: number;
  /** Null: not connected. */
  session: number | null;
  /** Its stream was closed while it was heard: its agent ended, and its memory may be there when it starts again. */
  ended: boolean;
  /** Last message of any kind. */
  heardMs: number;
  /** From then on its pages count again: after a silence, what comes first may have been long under way. */
  steadyMs: number;
  slots: number;
  host: string;
  device: string;
  version: string;
  /** Job whose ranks or snapshots the agent says it holds; null: nothing. */
  heldJobId: string | null;
  held: HeldState[];
  /** Pages of its ranks, as last told, and the generation they belong to. */
  generation: number;
  pages: RankPage[];
  /** Newest command it is known to have taken in on this stream; null: it does not tell. */
  heardCommand: { term: number; commandId: number } | null;
  /** Job whose newest generation has a place for it; null: none. */
  jobId: string | null;
  /** A Release is under way. */
  releasing: boolean;
  /** This agent process was asked to end, as it says itself or the platform does, and will be gone by then; null: it stays. */
  leaving: { untilMs: number; reason: string; by: "agent" | "platform" } | null;
  /** What the platform said last of this node, and of which of its processes; `spent`: it has explained an incident. Null: nothing. */
  fate: { atMs: number; fate: NodeFate; incarnation: string; spent: boolean } | null;
  /** What fails together with it; its own id when nothing else does. */
  failureDomain: string;
  /** Nodes with the same one share a machine: pods of different addresses do. */
  machine: string;
  /** Of its agent's PeerService; 0: it has none. */
  peerPort: number;
  /** Where its agent's metrics are read; empty: nowhere. */
  metricsUrl: string;
  /** What of the machine its agent cannot watch, with why. */
  unwatched: string[];
  /** Signs of trouble that it told, oldest first. */
  signs: NodeSign[];
  /** By how much its counters grew in the last minute; those that stand still are left out. */
  rates: ReadonlyMap<string, number>;
  /** Its CUDA devices, in CUDA's order. */
  devices: readonly NodeDevice[];
}

/** What one self-check of a node found. */
export interface CheckReading {
  name: string;
  ok: boolean;
  value: number;
  unit: string;
  detail: string;
  seconds: number;
  /** Of the value, either way; 0: none is known. */
  uncertainty: number;
  /** CUDA device of the node that it is about; null: the node itself. */
  device: { index: number; name: string } | null;
}

/** Where a node's self-checks stand. */
export interface NodeHealth {
  /** Agent process that this is about. */
  incarnation: string;
  /** due: to be examined before it gets a place that it has not had. */
  state: "due" | "running" | "passed" | "failed";
  /** Why it is due, or how it passed or failed. */
  why: string;
  run: CheckRun | null;
  readings: CheckReading[];
  /** When they were taken; null: never. */
  checkedMs: number | null;
  /** A job waits so long for it to be examined, after faults; null: none does. */
  awaitedUntilMs: number | null;
}

export interface CheckRun {
  checkId: number;
  session: number;
  sentMs: number;
  deadlineMs: number;
  purpose: "use" | "diagnosis" | "pair";
  /** It was slow, and is measured once more, for longer. */
  isSecond: boolean;
  /** Of the node's clock against this controller's; null: not told yet. */
  clock: { skewMs: number; uncertaintyMs: number } | null;
}

/** One request to examine nodes, from the first check to the verdict about pairs. */
export interface DiagnosisState {
  id: number;
  /** The job whose nodes are tried in pairs after faults that nobody explains; null: a person asked. */
  jobId: string | null;
  startedMs: number;
  stage: "nodes" | "pairs" | "done";
  nodes: Map<string, NodeVerdict>;
  trials: PairTrial[];
  /** Groups whose collectives are being tried. */
  wave: PairGroup[];
  waveUntilMs: number;
  badLinks: string[][];
}

export interface NodeVerdict {
  /** suspect: its collectives fail, and too few nodes are good to say whose fault that is. */
  verdict: "running" | "passed" | "failed" | "suspect" | "skipped";
  /** Why it did not pass; empty when it did. */
  reason: string;
}

export interface PairGroup {
  number: number;
  members: string[];
  /** Where each member listens. */
  ports: Map<string, { port: number; pid: number }>;
  results: Map<string, CheckReading>;
}

/**
 * Where a job stands:
 * queued     waits for its first generation;
 * forming    a generation is being formed;
 * running    a generation trains, or is taken to (a new leader that has not yet heard of it);
 * settling   a fault was seen, its evidence is being collected;
 * answering  an abort went out, ranks are given time to answer it;
 * reaping    processes that hang are being killed;
 * waiting    for nodes, or between attempts;
 * ending     its outcome is being made durable;
 * ended      over.
 */
export type JobStage =
  | "queued"
  | "forming"
  | "running"
  | "settling"
  | "answering"
  | "reaping"
  | "waiting"
  | "ending"
  | "ended";

export interface JobState {
  record: JobRecord;
  /** Its record is durable. */
  accepted: boolean;
  stage: JobStage;
  /** Why it stands there: the text shown everywhere. */
  reason: string;
  generation: GenerationState | null;
  /** Places of the newest generation, for the next one to stick to. */
  prior: { layout: LayoutSize; rankNodes: string[]; device: Device } | null;
  /** Every incident that is remembered, oldest first; the open one, if any, is `incident`. */
  incidents: IncidentRecord[];
  incident: IncidentRecord | null;
  incidentLast: number;
  /** `stepHighest` when its nodes were last tried in pairs; -1: they were not. */
  pairedAt: number;
  /** Places when the open incident was detected; null: another controller led then. */
  before: PlacesBefore | null;
  effective: EffectiveTime;
  /** Generations formed for recovery since a step was completed for the first time. */
  attempts: number;
  /** Generations before the present one. */
  restarts: number;
  formedMs: number;
  /** Milliseconds times nodes of the generations before the present one, since this controller leads. */
  nodeMs: number;
  /** Highest step ever completed. */
  stepHighest: number;
  stepTimesMs: number[];
  /** The longest pause of each step in the newest layout that has told some. */
  pauses: { layout: string; ms: number[] };
  checkpoints: CheckpointEntry[];
  /** The newest state whose save failed and was told, until a later one is durable; null: saves succeed. */
  saveAlarm: StateName | null;
  /** Checkpoints that retention no longer keeps could not be removed after the newest commit. */
  retentionFailing: boolean;
  excludedSnapshots: Set<string>;
  excludedCheckpoints: Set<string>;
  /** By address. */
  readBack: Map<string, ReadParts>;
  /** What was told of checkpoints that are not in the register. */
  readEarly: EarlyRead[];
  /** How its state is protected against the loss of nodes, as told last; null: nothing was told yet. */
  protection: string | null;
  /** Newest state known to be in two places for every rank; null: none, or the job went back behind it. */
  replicated: StateName | null;
  /** The newest state whose copy to another node failed and was told, until it or a later one is replicated; null: none. */
  replicaAlarm: StateName | null;
  /** States of this generation after that step, and later ones, that twins did not agree on, and why; null: none. */
  doubt: { generation: number; after: number; text: string; toldIn: number } | null;
  /** Agent processes that have shown to see one folder under checkpoint.uri, since this controller leads. */
  sharing: Set<string>;
  /** What was due and could not be made then, since this controller leads; when people were last told. */
  missed: { snapshots: number; saves: number; toldMs: number };
  /** Observations of the fault being judged. */
  faults: Fault[];
  waitSinceMs: number;
  /** Faults laid to each node since a step was completed for the first time. */
  blame: Map<string, number>;
  /** When the faults of the last hour were that were laid to each node, whatever was completed in between; oldest first. */
  blamedMs: Map<string, number[]>;
  /** What its steps told of their numbers. */
  numbers: NumbersWatch;
  /** Nodes that were slow or computed wrong: used again where nothing else is left, or when their time is over. */
  avoided: Map<string, Avoided>;
  /** Nodes to be avoided since they and other members cannot connect, with why; until they do, or their agents start anew. */
  unconnected: Map<string, string>;
  /** Nodes without a place whose memory the members could not read, since a step was completed for the first time. */
  unreadable: Set<string>;
  /** Generations that could not read from such a node in sight, in the same time. */
  unreadTries: number;
  /** When the last slow one was replaced. */
  replacedMs: number;
  /** Hung ranks whose end has been ordered, and their nodes. */
  kills: Map<number, string>;
  lastStep: StepCompleted | null;
  /** When this controller was told of it; 0: of none. */
  lastStepMs: number;
  /** What is still told of the generation before the present one; null: there was none. */
  left: (GenerationPlaces & { stepReported: number }) | null;
}

export type GenerationStage = "persisting" | "prepare" | "connect" | "restore" | "run" | "adopt";

/** Who computed what in a generation. */
export interface GenerationPlaces {
  number: number;
  layout: Layout;
  /** Node of every rank, in rank order. */
  rankNodes: string[];
}

export interface GenerationState extends GenerationPlaces {
  /** What its ranks compute on; the same in all generations of a job. */
  device: Device;
  nodeRanks: Map<string, number[]>;
  /** Agent process of each node when its first rank was ready. */
  incarnations: Map<string, string>;
  /** The last command of this generation to each node that is to be answered, and the stream it went out on. */
  told: Map<string, { session: number; term: number; commandId: number; atMs: number }>;
  /** Nodes without a place in it that may hold what it restores: released once it has done a step. */
  former: Set<string>;
  /** Members whose agents were asked to end, and when they will be gone: this generation ends at its next vote. */
  draining: Map<string, number>;
  /** State that its agents were told to make durable from memory, why, and how long that is waited for. */
  rescue: { state: StateName; why: string; untilMs: number } | null;
  stage: GenerationStage;
  deadlineMs: number;
  /** Ranks that completed the present phase, or that finished while in `run`. */
  reached: Uint8Array;
  reachedCount: number;
  finished: { state: StateName; reason: "steps" | "stop" } | null;
  /** Until when ranks that have not told their end are waited for, once it has finished. */
  finishByMs: number;
  /** When it was told to run, or found running; 0: not yet. */
  runMs: number;
  /** Of ranks that are programs of their own: some ended because they were told to. */
  programsStopped: boolean;
  /** Its ranks were asked to yield to a larger layout, or (after a change of leaders) did so. */
  yielding: boolean;
  /** Where the ranks of each node listen, as far as they are ready. */
  endpoints: Map<string, NodeEndpoints>;
  /** What all nodes are told of that: one object, so that it is encoded once. Null: not all are ready. */
  connect: Connect | null;
  /** What its agents found under checkpoint.uri, by node. */
  proofs: Map<string, { written: boolean; missing: ReadonlySet<string> }>;
  /** Newcomers of which people were told that they do not share it; `all`: nobody is known to. */
  apart: Set<string>;
  /** Snapshots of each rank at its place, told when ready. */
  states: (readonly StateName[])[];
  /** Whether the job's storage has told it what is committed there; `answered`, too, where that was waited for in vain. */
  storage: "unasked" | "asked" | "failed" | "answered";
  /** Where every rank was told to take its state from. */
  restore: Exclude<RestoreChoice, { kind: "none" }> | null;
  /** What each node reads from others for that, by node. */
  places: ReadonlyMap<string, readonly RestorePlace[]>;
  /** Where replicas are kept; null: a new leader has not yet heard of all members. */
  keepers: KeeperPlan | null;
  pages: (RankPage | null)[];
  /** When each page last changed. */
  changedMs: Float64Array;
  changedLastMs: number;
  /** How fast its ranks are. */
  pace: Pace;
  /** When its agents were last told that, for their metrics. */
  scoresMs: number;
  /** Last step completed in this generation; before the first, the restored one. */
  step: number;
  /** Last step whose report was passed on. */
  stepReported: number;
  hasStepped: boolean;
  /** Steps that rank 0 has told. */
  stepsTold: number;
  /** Nodes that have not answered yet what their ranks do, since nothing seems to move; null: nobody is asked. */
  asked: Set<string> | null;
  /** Command before those that ask a second time who has not answered the abort; 0: they have not been sent. */
  askedAgainId: number;
  previews: PreviewsState;
  /** When its abort was decided; 0: not aborted. */
  abortedMs: number;
  /** Some node was there to be told of the abort: from then on the generation cannot go on. */
  abortSent: boolean;
  /** Ranks that answered the abort (or ended). */
  answered: Set<number>;
}

/** What a generation draws while it trains. Soft: agents repeat what they told. */
export interface PreviewsState {
  /** The newest state of which one was due. */
  due: StateName | null;
  /** Under way: where, and whether nothing is pinned for it any more. */
  drawing: { state: StateName; nodeId: string; places: readonly RestorePlace[]; isRead: boolean } | null;
  /** The newest whose end its agent has told. */
  ended: StateName | null;
}

export interface DurableState {
  revisions: Map<string, bigint>;
  queue: Transaction[];
  /** `tries`: times that it ended refused or unknown. */
  inFlight: { transaction: Transaction; refused: boolean; tries: number } | null;
  /** People were told that the store takes no writes. */
  troubled: boolean;
  idLast: number;
}

export interface Transaction {
  id: number;
  writes: DurableWrite[];
  then: Continuation;
}

/** What the core does once a transaction is durable. */
export type Continuation =
  | { kind: "none" }
  | { kind: "lead" }
  | { kind: "raise"; term: number }
  | { kind: "accept"; requestId: string; jobId: string }
  | { kind: "prepare"; jobId: string; generation: number }
  | { kind: "end"; jobId: string }
  | { kind: "stop"; requestId: string; jobId: string }
  | { kind: "confirm"; requestId: string };

export function createState(config: CoreConfig): CoreState {
  return {
    config,
    leader: null,
    commandLast: 0,
    generationLast: 0,
    jobOrderLast: 0,
    nodes: new Map(),
    jobs: new Map(),
    quarantine: new Map(),
    domains: new Map(),
    health: new Map(),
    diagnosis: null,
    fleet: null,
    checkLast: 0,
    durable: { revisions: new Map(), queue: [], inFlight: null, troubled: false, idLast: 0 },
    timers: new Map(),
    excused: new Set(),
    deferred: [],
    raising: false,
    nodesChangedMs: 0,
  };
}

/** A job as first known: just submitted, or read from its record by a new leader. */
export function createJobState(record: JobRecord): JobState {
  return {
    record,
    accepted: false,
    stage: record.outcome === null ? "queued" : "ended",
    reason: record.outcome === null ? "submitted" : record.outcome.reason,
    generation: null,
    prior: null,
    incidents: [],
    incident: null,
    incidentLast: 0,
    before: null,
    effective: createEffectiveTime(),
    attempts: 0,
    pairedAt: -1,
    restarts: 0,
    formedMs: 0,
    nodeMs: 0,
    stepHighest: record.outcome?.step ?? 0,
    stepTimesMs: [],
    pauses: { layout: "", ms: [] },
    checkpoints: [],
    saveAlarm: null,
    retentionFailing: false,
    excludedSnapshots: new Set(),
    excludedCheckpoints: new Set(),
    readBack: new Map(),
    readEarly: [],
    protection: null,
    replicated: null,
    replicaAlarm: null,
    doubt: null,
    sharing: new Set(),
    missed: { snapshots: 0, saves: 0, toldMs: Number.NEGATIVE_INFINITY },
    faults: [],
    waitSinceMs: 0,
    blame: new Map(),
    blamedMs: new Map(),
    numbers: createNumbers(),
    avoided: new Map(),
    unconnected: new Map(),
    unreadable: new Set(),
    unreadTries: 0,
    replacedMs: Number.NEGATIVE_INFINITY,
    kills: new Map(),
    lastStep: null,
    lastStepMs: 0,
    left: null,
  };
}

export function createGeneration(options: {
  number: number;
  layout: Layout;
  rankNodes: string[];
  device: Device;
  stage: GenerationStage;
  nowMs: number;
}): GenerationState {
  const { number, layout, rankNodes, device, stage, nowMs } = options;
  const nodeRanks = new Map<string, number[]>();
  for (const [rank, nodeId] of rankNodes.entries()) {
    const ranks = nodeRanks.get(nodeId);
    if (ranks) ranks.push(rank);
    else nodeRanks.set(nodeId, [rank]);
  }
  return {
    number,
    layout,
    rankNodes,
    device,
    nodeRanks,
    incarnations: new Map(),
    told: new Map(),
    former: new Set(),
    draining: new Map(),
    rescue: null,
    stage,
    deadlineMs: 0,
    reached: new Uint8Array(layout.worldSize),
    reachedCount: 0,
    finished: null,
    finishByMs: 0,
    runMs: 0,
    programsStopped: false,
    yielding: false,
    endpoints: new Map(),
    connect: null,
    proofs: new Map(),
    apart: new Set(),
    states: new Array<readonly StateName[]>(layout.worldSize).fill([]),
    storage: "unasked",
    restore: null,
    places: new Map(),
    keepers: null,
    pages: new Array<RankPage | null>(layout.worldSize).fill(null),
    changedMs: new Float64Array(layout.worldSize).fill(nowMs),
    changedLastMs: nowMs,
    pace: createPace(layout.worldSize),
    scoresMs: Number.NEGATIVE_INFINITY,
    step: 0,
    stepReported: 0,
    hasStepped: false,
    stepsTold: 0,
    asked: null,
    askedAgainId: 0,
    previews: { due: null, drawing: null, ended: null },
    abortedMs: 0,
    abortSent: false,
    answered: new Set(),
  };
}
