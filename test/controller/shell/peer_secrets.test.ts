import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { PeerSecrets } from "../../../controller/shell/peer_secrets.js";
import { EmbeddedStore } from "../../../controller/store/embedded.js";

test("PeerSecrets: every leader of a store gives a job the same secret, other jobs and stores have others", async (t) => {
  const folders = [0, 1].map(() => mkdtempSync(path.join(tmpdir(), "goku-secrets-")));
  t.after(() => {
    for (const folder of folders) rmSync(folder, { recursive: true });
  });
  const [one, other] = await Promise.all(folders.map((folder) => EmbeddedStore.open(folder)));
  const load = async (store: EmbeddedStore) => {
    const secrets = new PeerSecrets();
    await secrets.load(store);
    return secrets;
  };
  // Two that are elected at about the same time.
  const leaders = await Promise.all([load(one!), load(one!)]);
  const later = await load(one!);
  const stranger = await load(other!);
  const secret = later.of("job-1");
  assert.match(secret, /^[0-9a-f]{64}$/);
  for (const leader of leaders) assert.equal(leader.of("job-1"), secret);
  assert.notEqual(later.of("job-2"), secret);
  assert.notEqual(stranger.of("job-1"), secret);
  const check = later.ofCheck(7n);
  assert.equal(leaders[0].ofCheck(7n), check);
  for (const another of [later.ofCheck(8n), stranger.ofCheck(7n), later.of("7"), secret])
    assert.notEqual(another, check);
  await Promise.all([one!.close(), other!.close()]);
});
