import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeCommand } from "../../../controller/api/encode_command.js";
import { SessionResponse } from "../../../gen/goku/v1/agent.pb.js";

const members = [0, 1].map((node) => ({
  nodeId: `n${node}`,
  host: "127.0.0.1",
  ranks: [2 * node, 2 * node + 1],
  ports: [20_000, 20_001],
  pids: [7, 8],
}));
const connect = { generation: 3n, nodes: members, proveStorage: true };
const job = { name: "shapes", train: { steps: 10 }, prompts: ["a red circle"], nothing: null };
const layout = { dpReplicate: 1, dpShard: 4, sp: 1 };
const prepare = {
  generation: 3n,
  jobId: "j0",
  job,
  layout,
  ranks: [0, 1],
  replicate: true,
  keeps: [2],
  peerSecret: "s",
  restarts: 2,
  stepHighest: 40n,
  recentSteps: [],
  device: "cpu",
};
const replicas = [{ rank: 0, nodeId: "n1", host: "127.0.0.1", port: 7 }];
const commands: SessionResponse[] = [
  { term: 2n, commandId: 5n, message: { $case: "connect", value: connect } },
  { term: 2n, commandId: 6n, message: { $case: "connect", value: connect } },
  { term: 2n, commandId: 7n, message: { $case: "prepare", value: { ...prepare, replicas } } },
  { term: 2n, commandId: 8n, message: { $case: "prepare", value: { ...prepare, ranks: [2], replicas: [] } } },
  { term: 2n, commandId: 9n, message: { $case: "run", value: { generation: 3n } } },
  { term: 0n, commandId: 0n, message: undefined },
];

test("encodeCommand() gives what generated code reads back, with shared parts and without", () => {
  for (const command of commands) assert.deepEqual(SessionResponse.decode(encodeCommand(command)), command);
});

test("encodeCommand() encodes what all nodes are told once", () => {
  let reads = 0;
  const counted = Object.defineProperty({ ...connect }, "nodes", {
    get: () => {
      reads += 1;
      return members;
    },
  });
  const tell = (commandId: bigint) =>
    encodeCommand({ term: 1n, commandId, message: { $case: "connect", value: counted } });
  tell(1n);
  const readsFirst = reads;
  assert.ok(readsFirst > 0);
  tell(2n);
  assert.equal(reads, readsFirst);
});
