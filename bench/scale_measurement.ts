import { ControllerClient } from "../cli/client.js";
import { GetJobResponse, ListJobsResponse, ListNodesResponse } from "../gen/goku/v1/controller.pb.js";
import type { Job } from "../job/job.js";
import { median } from "../job/median.js";
import { nodeName } from "../test/support/simulated_fleet.js";
import { MeasuredController } from "./measured_controller.js";
import { AgentProcesses } from "./scale_processes.js";

const NODES_PER_DOMAIN = 16;

/** `seconds`: of steady training. `rounds`: times that a node is lost and a rank killed. */
export interface World {
  agents: number;
  ranks: number;
  seconds: number;
  rounds: number;
}

/** CPU of the controller and the time that passed. */
export interface Cost {
  cpu: number;
  wall: number;
}

export interface Figures {
  join: Cost;
  form: Cost;
  steady: Cost[];
  residentMb: number;
  residentMbMax: number;
  loopLagMs: { p99: number; max: number };
  lose: Cost[];
  reformed: Cost[];
  kill: Cost[];
  restart: Cost;
  restartLeads: number;
  answers: { name: string; ms: number; cpu: number; bytes: number }[];
}

/** Takes one controller through joining, forming, training, faults and a restart. */
export class Measurement {
  readonly #world: World;
  readonly #folder: string;
  readonly #execArgv: string[];
  readonly #processes = new AgentProcesses();
  #controller!: MeasuredController;
  /** CPU per second that heartbeats take. */
  #heartbeats = 0;
  #step = 0;
  #spare: number;
  #generation = 0;

  constructor(world: World, options: { folder: string; execArgv: string[] }) {
    this.#world = world;
    this.#folder = options.folder;
    this.#execArgv = options.execArgv;
    this.#spare = world.agents;
  }

  async run(job: Job): Promise<Figures> {
    const { seconds, rounds } = this.#world;
    const execArgv = this.#execArgv;
    this.#controller = await MeasuredController.start({ folder: this.#folder, execArgv });
    try {
      const join = await this.#cost(async () => {
        const { agents, ranks } = this.#world;
        const fleet = { slots: ranks / agents, nodesPerDomain: NODES_PER_DOMAIN };
        await this.#processes.start({ controller: this.#controller.grpc, count: agents + 1, ...fleet });
        await this.#processes.until("welcomed");
      });
      await pause(2_000);
      const form = await this.#cost(async () => {
        await this.#submit(job);
        await this.#running();
      });
      await this.#train(3);
      await this.#loopLag(); // reading it starts it anew
      const steady = await this.#steady(seconds);
      this.#heartbeats = median(steady.map(({ cpu, wall }) => cpu / wall));
      const { residentBytes } = this.#controller;
      const loopLagMs = await this.#loopLag();
      const answers = await this.#answers();
      const lose: Cost[] = [];
      const reformed: Cost[] = [];
      const kill: Cost[] = [];
      for (let round = 0; round < rounds; round++) {
        await this.#lose(lose, reformed);
        await this.#train(3);
        kill.push(await this.#kill());
        await this.#train(3);
      }
      const residentMbMax = this.#controller.residentBytesMax / 1e6;
      const { restart, restartLeads } = await this.#restart();
      const residentMb = residentBytes / 1e6;
      form.cpu -= this.#heartbeats * form.wall; // what they take was not known then
      const memory = { residentMb, residentMbMax, loopLagMs };
      return { join, form, steady, ...memory, lose, reformed, kill, restart, restartLeads, answers };
    } finally {
      this.#processes.close();
      await this.#controller.stop("SIGTERM");
    }
  }

  async #submit(job: Job): Promise<void> {
    const client = new ControllerClient(this.#controller.grpc);
    await client.call("submitJob", {
      job: job as unknown as { [key: string]: unknown },
      resumeUri: undefined,
    });
    client.close();
  }

  async #running(): Promise<void> {
    const answers = await this.#processes.until("running", this.#generation, this.#spare);
    this.#generation = Math.max(...answers.map(({ generation }) => generation));
  }

  async #train(steps: number): Promise<void> {
    for (let i = 0; i < steps; i++) {
      await pause(1_000);
      this.#step += 1;
      await this.#processes.all({ kind: "step", step: this.#step });
    }
  }

  /** A step and a heartbeat of every agent each second. */
  async #steady(seconds: number): Promise<Cost[]> {
    const windows: Cost[] = [];
    for (let i = 0; i < 3; i++) windows.push(await this.#cost(() => this.#train(Math.ceil(seconds / 3))));
    return windows;
  }

  /** A machine goes: from then until every node has been told its place in the next generation; then until that trains. */
  async #lose(lose: Cost[], reformed: Cost[]): Promise<void> {
    const lost = this.#spare === 1 ? 2 : 1;
    const spare = this.#spare;
    await this.#processes.all({ kind: "answers", answers: false });
    lose.push(
      await this.#cost(async () => {
        const answers = await this.#processes.all({ kind: "lose", nodeId: nodeName(lost) });
        const peer = answers.flatMap(({ ranks }) => ranks)[0]!;
        await this.#processes.all({ kind: "peerDied", peer });
        await this.#processes.until("prepared", this.#generation, lost);
      }),
    );
    this.#spare = lost;
    reformed.push(
      await this.#cost(async () => {
        await this.#processes.all({ kind: "answers", answers: true });
        await this.#running();
      }),
    );
    await this.#processes.all({ kind: "restart", nodeId: nodeName(lost) });
    await this.#processes.until("welcomed");
    if (spare === lost) throw new Error("bench: the spare was lost");
  }

  /** A rank is killed: until all train again. */
  #kill(): Promise<Cost> {
    return this.#cost(async () => {
      const rank = 5 * (this.#world.ranks / this.#world.agents);
      await this.#processes.all({ kind: "kill", rank });
      await this.#processes.all({ kind: "peerDied", peer: rank });
      await this.#running();
    });
  }

  /** The controller is killed and started again at the same ports. */
  async #restart(): Promise<{ restart: Cost; restartLeads: number }> {
    const port = this.#controller.grpc.split(":")[1]!;
    const restPort = new URL(this.#controller.rest).port;
    await this.#controller.stop(this.#execArgv.length > 0 ? "SIGTERM" : "SIGKILL"); // a killed one leaves no profile
    const begun = performance.now();
    this.#controller = await MeasuredController.start({ folder: this.#folder, port, restPort });
    const restartLeads = (performance.now() - begun) / 1_000;
    await this.#processes.until("welcomed");
    const wall = (performance.now() - begun) / 1_000;
    return { restart: { cpu: this.#controller.cpuSeconds, wall }, restartLeads };
  }

  /** Without what the heartbeats take meanwhile, once that is known. */
  async #cost(work: () => Promise<unknown>): Promise<Cost> {
    const cpuBefore = this.#controller.cpuSeconds;
    const begun = performance.now();
    await work();
    const wall = (performance.now() - begun) / 1_000;
    return { cpu: this.#controller.cpuSeconds - cpuBefore - this.#heartbeats * wall, wall };
  }

  /** Of the time since it was asked for last. */
  async #loopLag(): Promise<{ p99: number; max: number }> {
    const text = await (await fetch(`${this.#controller.rest}/metrics`)).text();
    const milliseconds = (name: string) =>
      1_000 * Number(new RegExp(`^${name} (\\S+)$`, "m").exec(text)?.[1] ?? Number.NaN);
    return {
      p99: milliseconds("nodejs_eventloop_lag_p99_seconds"),
      max: milliseconds("nodejs_eventloop_lag_max_seconds"),
    };
  }

  async #answers(): Promise<Figures["answers"]> {
    const client = new ControllerClient(this.#controller.grpc);
    const name = "scale";
    const asked: Figures["answers"] = [];
    for (const [question, ask] of [
      [
        "GET /metrics",
        async () => (await (await fetch(`${this.#controller.rest}/metrics`)).arrayBuffer()).byteLength,
      ],
      [
        "gokuctl status",
        async () => GetJobResponse.encode(await client.call("getJob", { name })).finish().length,
      ],
      [
        "gokuctl jobs",
        async () => ListJobsResponse.encode(await client.call("listJobs", {})).finish().length,
      ],
      [
        "gokuctl nodes",
        async () => ListNodesResponse.encode(await client.call("listNodes", {})).finish().length,
      ],
      [
        "GET /v1/nodes",
        async () => (await (await fetch(`${this.#controller.rest}/v1/nodes`)).arrayBuffer()).byteLength,
      ],
    ] as const) {
      const times: { wall: number; cpu: number; bytes: number }[] = [];
      for (let i = 0; i < 5; i++) {
        let bytes = 0;
        const cost = await this.#cost(async () => {
          bytes = await ask();
        });
        times.push({ ...cost, bytes });
      }
      const of = (field: "wall" | "cpu" | "bytes") => median(times.map((time) => time[field]));
      asked.push({ name: question, ms: 1_000 * of("wall"), cpu: 1_000 * of("cpu"), bytes: of("bytes") });
    }
    client.close();
    return asked;
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
