import assert from "node:assert/strict";
import { test } from "node:test";
import { memberVariables, placeVariables } from "../../../worker/program/torchrun_environment.js";

test("placeVariables() and memberVariables() say what torchrun says of the same place", () => {
  const place = {
    jobId: "shapes-1",
    restarts: 4,
    maxRestarts: 5,
    layout: { dp_replicate: 1, dp_shard: 2, sp: 2 },
    rank: 3,
    localRank: 1,
    localWorldSize: 2,
  };
  const endpoint = (rank: number, nodeId: string) => ({
    rank,
    nodeId,
    host: `10.0.0.${rank}`,
    port: 4000 + rank,
    pid: 1,
  });
  const members = [endpoint(0, "b"), endpoint(1, "b"), endpoint(2, "a"), endpoint(3, "a")];
  assert.deepEqual(
    { ...placeVariables(place), ...memberVariables(members, "a") },
    {
      RANK: "3",
      WORLD_SIZE: "4",
      LOCAL_RANK: "1",
      LOCAL_WORLD_SIZE: "2",
      ROLE_RANK: "3",
      ROLE_WORLD_SIZE: "4",
      TORCHELASTIC_RUN_ID: "shapes-1",
      TORCHELASTIC_RESTART_COUNT: "4",
      TORCHELASTIC_MAX_RESTARTS: "5",
      MASTER_ADDR: "10.0.0.0",
      MASTER_PORT: "4000",
      GROUP_RANK: "1",
      GROUP_WORLD_SIZE: "2",
    },
  );
});
