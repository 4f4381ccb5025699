import type { RankEndpoint, StepCompleted } from "../../gen/goku/v1/agent.pb.js";
import type { Layout, LayoutSize } from "../../job/layout.js";
import type { KeeperPlan } from "./choose_keepers.js";
import type { RestoreChoice } from "./choose_restore.js";
import type {
  CheckpointEntry,
  CoreLimits,
  DurableWrite,
  Event,
  IncidentRecord,
  JobRecord,
  QuarantineRecord,
  StateName,
} from "./contract.js";
import type { Fault } from "./judge_fault.js";
import type { LayoutChooser } from "./plan_members.js";
import type { RestorePlace } from "./restore_places.js";
import type { HeldState, RankPage } from "./wire.js";

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
  /** Null: not connected. */
  session: number | null;
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
  /** This agent process was asked to end, by what, and will be gone by then; null: it stays. */
  leaving: { untilMs: number; reason: string } | null;
  /** What fails together with it; its own id when nothing else does. */
  failureDomain: string;
  /** Of its agent's PeerService; 0: it has none. */
  peerPort: number;
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
  prior: { layout: LayoutSize; rankNodes: string[] } | null;
  /** Every incident that is remembered, oldest first; the open one, if any, is `incident`. */
  incidents: IncidentRecord[];
  incident: IncidentRecord | null;
  incidentLast: number;
  /** Generations formed for recovery since a step was completed for the first time. */
  attempts: number;
  formedMs: number;
  /** Highest step ever completed. */
  stepHighest: number;
  stepTimesMs: number[];
  checkpoints: CheckpointEntry[];
  /** The newest state whose save failed and was told, until a later one is durable; null: saves succeed. */
  saveAlarm: StateName | null;
  excludedSnapshots: Set<string>;
  excludedCheckpoints: Set<string>;
  /** How its state is protected against the loss of nodes, as told last; null: nothing was told yet. */
  protection: string | null;
  /** Newest state known to be in two places for every rank; null: none, or the job went back behind it. */
  replicated: StateName | null;
  /** Observations of the fault being judged. */
  faults: Fault[];
  waitSinceMs: number;
  /** Faults laid to each node since a step was completed for the first time. */
  blame: Map<string, number>;
  /** Hung ranks whose end has been ordered, and their nodes. */
  kills: Map<number, string>;
  lastStep: StepCompleted | null;
  /** The generation before the present one, and the last of its steps that was passed on; null: there was none. */
  left: { generation: number; stepReported: number } | null;
}

export type GenerationStage = "persisting" | "prepare" | "connect" | "restore" | "run" | "adopt";

export interface GenerationState {
  number: number;
  layout: Layout;
  /** Node of every rank, in rank order. */
  rankNodes: string[];
  nodeRanks: Map<string, number[]>;
  /** Agent process of each node when its first rank was ready. */
  incarnations: Map<string, string>;
  /** The last command of this generation to each node that is to be answered, and the stream it went out on. */
  told: Map<string, { session: number; term: number; commandId: number; atMs: number }>;
  /** Nodes of earlier generations, released once this one is durable. */
  leaving: string[];
  /** Members whose agents were asked to end, and when they will be gone: this generation ends at its next vote. */
  draining: Map<string, number>;
  /** State that its agents were told to make durable from memory, and how long that is waited for. */
  rescue: { state: StateName; untilMs: number } | null;
  stage: GenerationStage;
  deadlineMs: number;
  /** Ranks that completed the present phase, or that finished while in `run`. */
  reached: Uint8Array;
  reachedCount: number;
  finished: { state: StateName; reason: "steps" | "stop" } | null;
  endpoints: (RankEndpoint | null)[];
  /** Snapshots of each rank at its place, told when ready. */
  states: StateName[][];
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
  /** Last step completed in this generation; before the first, the restored one. */
  step: number;
  /** Last step whose report was passed on. */
  stepReported: number;
  hasStepped: boolean;
  /** When its abort was decided; 0: not aborted. */
  abortedMs: number;
  /** Some node was there to be told of the abort: from then on the generation cannot go on. */
  abortSent: boolean;
  /** Ranks that answered the abort (or ended). */
  answered: Set<number>;
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
    attempts: 0,
    formedMs: 0,
    stepHighest: record.outcome?.step ?? 0,
    stepTimesMs: [],
    checkpoints: [],
    saveAlarm: null,
    excludedSnapshots: new Set(),
    excludedCheckpoints: new Set(),
    protection: null,
    replicated: null,
    faults: [],
    waitSinceMs: 0,
    blame: new Map(),
    kills: new Map(),
    lastStep: null,
    left: null,
  };
}

export function createGeneration(options: {
  number: number;
  layout: Layout;
  rankNodes: string[];
  stage: GenerationStage;
  nowMs: number;
}): GenerationState {
  const { number, layout, rankNodes, stage, nowMs } = options;
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
    nodeRanks,
    incarnations: new Map(),
    told: new Map(),
    leaving: [],
    draining: new Map(),
    rescue: null,
    stage,
    deadlineMs: 0,
    reached: new Uint8Array(layout.worldSize),
    reachedCount: 0,
    finished: null,
    endpoints: new Array<RankEndpoint | null>(layout.worldSize).fill(null),
    states: Array.from({ length: layout.worldSize }, () => []),
    restore: null,
    places: new Map(),
    keepers: null,
    pages: new Array<RankPage | null>(layout.worldSize).fill(null),
    changedMs: new Float64Array(layout.worldSize).fill(nowMs),
    changedLastMs: nowMs,
    step: 0,
    stepReported: 0,
    hasStepped: false,
    abortedMs: 0,
    abortSent: false,
    answered: new Set(),
  };
}
