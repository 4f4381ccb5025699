import assert from "node:assert/strict";
import path from "node:path";
import { after, test } from "node:test";
import { listCheckpoints, openCheckpoint } from "../../checkpoint/load.js";
import { stateKey } from "../../checkpoint/state.js";
import { S3Storage } from "../../checkpoint/storage/s3.js";
import { GokuError } from "../../job/errors.js";
import { MemoryS3 } from "../support/memory_s3.js";
import { testSettings } from "../support/s3_settings.js";
import {
  layoutOf,
  metaOf,
  requireState,
  type SaveSetup,
  SMALL,
  saveAndCommit,
  scratchFolder,
  state,
} from "./fixtures.js";

const scratch = scratchFolder();
const layout = layoutOf("1x2x1");

test("an S3 server that dies at any request of a save, before or after it did it: a typed error, the older checkpoint stays, the repeated save succeeds", async () => {
  const server = await MemoryS3.start();
  after(() => server.stop());
  const setup = (run: number, step: number): SaveSetup => {
    const settings = testSettings(server.endpoint, { attemptsMax: 1 });
    const storage = new S3Storage(
      { bucket: server.bucket, prefix: `run-${run}` },
      { settings, partBytes: 5 << 20 },
    );
    const slots = path.join(scratch, `${step}`);
    return { storage, model: SMALL, layout, meta: metaOf(state(1, step), layout), slots };
  };
  await saveAndCommit(setup(0, 10));
  const first = server.log.length;
  await saveAndCommit(setup(0, 20));
  const requests = server.log.length - first;
  let failed = 0;
  for (let at = 0; at < requests; at++) {
    for (const kind of ["drop", "dropAfter"] as const) {
      const run = 2 * at + (kind === "drop" ? 1 : 2);
      const where = `${kind} from request ${at} of ${requests} on`;
      await saveAndCommit(setup(run, 10));
      server.dieAfter(at, kind);
      const saving = saveAndCommit(setup(run, 20));
      const error = await saving.then(
        () => null,
        (thrown: unknown) => thrown,
      );
      server.revive();
      assert.ok(
        error === null || (error instanceof GokuError && error.code === "STORAGE_FAILED"),
        `${where}: ${error}`,
      );
      const { storage } = setup(run, 20);
      const listed = async () => {
        const entries = await listCheckpoints(storage, (found) => assert.fail(found.error.message));
        for (const entry of entries)
          await requireState(await openCheckpoint(storage, entry.state), SMALL, entry.state);
        return entries.map((entry) => stateKey(entry.state));
      };
      assert.ok((await listed()).includes("1-10"), where);
      if (error !== null) failed++;
      await saveAndCommit(setup(run, 20));
      assert.deepEqual(await listed(), ["1-20", "1-10"], where);
    }
  }
  assert.ok(requests > 15 && failed > 2 * requests - 4, `${failed} of ${2 * requests} failed`);
});
