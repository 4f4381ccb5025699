import assert from "node:assert/strict";
import { test } from "node:test";
import { commandJobSchema } from "../../../job/command_job.js";
import { type ProgramPlace, programEnvironment } from "../../../worker/program/program_environment.js";

const place: ProgramPlace = {
  kind: "prepareProgram",
  generation: "7",
  jobId: "id-1",
  job: commandJobSchema.parse({
    name: "ddp",
    trainer: { command: ["train"], env: { MASTER_PORT: 29500, LR: 0.1, HOME: "/elsewhere" } },
    recovery: { max_attempts: 3 },
  }),
  layout: { dp_replicate: 1, dp_shard: 4, sp: 1 },
  rank: 2,
  localRank: 0,
  localWorldSize: 2,
  nodeId: "b",
  host: "10.0.0.2",
  progressPage: "/dev/shm/p",
  heartbeatFile: "/dev/shm/h",
  threads: 6,
  restarts: 2,
  stepHighest: 41,
};
const members = [0, 1, 2, 3].map((rank) => {
  const nodeId = rank < 2 ? "a" : "b";
  return { rank, nodeId, host: rank < 2 ? "10.0.0.1" : "10.0.0.2", port: 4_000 + rank, pid: 1 };
});

test("programEnvironment(): the agent's variables, torchrun's, ours, and those of the job over all", () => {
  const inherited = {
    PATH: "/bin",
    HOME: "/root",
    GOKU_AGENT_PID: "9",
    GOKU_TOKEN_FILE: "/etc/goku/agent.token",
    GOKU_PROCESS: "family/1",
    OMP_WAIT_POLICY: "passive",
    RANK: "77",
    GONE: undefined,
  };
  const found = programEnvironment({ inherited, place, members, heartbeatUrl: "http://127.0.0.1:1/x" });
  assert.deepEqual(found, {
    PATH: "/bin",
    HOME: "/elsewhere",
    LR: "0.1",
    PYTHONUNBUFFERED: "1",
    OMP_NUM_THREADS: "6",
    RANK: "2",
    WORLD_SIZE: "4",
    LOCAL_RANK: "0",
    LOCAL_WORLD_SIZE: "2",
    ROLE_RANK: "2",
    ROLE_WORLD_SIZE: "4",
    GROUP_RANK: "1",
    GROUP_WORLD_SIZE: "2",
    NODE_RANK: "1",
    MASTER_ADDR: "10.0.0.1",
    MASTER_PORT: "29500",
    TORCHELASTIC_RUN_ID: "id-1",
    TORCHELASTIC_RESTART_COUNT: "2",
    TORCHELASTIC_MAX_RESTARTS: "3",
    TORCHELASTIC_USE_AGENT_STORE: "False",
    GOKU_PROCESS: "family/1",
    GOKU_JOB: "ddp",
    GOKU_GENERATION: "7",
    GOKU_LAST_STEP: "41",
    GOKU_HEARTBEAT_FILE: "/dev/shm/h",
    GOKU_HEARTBEAT_URL: "http://127.0.0.1:1/x",
  });
});

test("programEnvironment() leaves a buffering of Python that the agent was given", () => {
  const options = { place, members, heartbeatUrl: "" };
  assert.equal(programEnvironment({ ...options, inherited: { PYTHONUNBUFFERED: "" } }).PYTHONUNBUFFERED, "");
});
