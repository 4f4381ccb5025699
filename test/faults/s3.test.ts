import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { openStorage } from "../../checkpoint/storage/storage.js";
import { CEPH_SKIP, CephCluster } from "../support/ceph.js";
import { until } from "../support/until.js";
import { assertSameRun, generations, LIMIT, run } from "./compare_runs.js";

/** A job whose checkpoints go to Ceph's radosgw, which is harmed in the middle of a save. */

const OPTIONS = { ...LIMIT, skip: CEPH_SKIP };

let ceph: CephCluster;
before(async () => {
  if (CEPH_SKIP !== false) return;
  ceph = await CephCluster.start();
  // Members of the cluster and the comparison afterwards find the server as any program does.
  process.env.AWS_ENDPOINT_URL_S3 = ceph.endpoint;
});
after(async () => {
  if (CEPH_SKIP === false) await ceph.stop();
});

/** Resolves when a save has begun to write and is not done: the OSD is so slow that its many requests take seconds. */
async function untilSaving(uri: string): Promise<void> {
  await ceph.slowOsd(0.05);
  await until(async () => {
    const keys = (await openStorage(uri).list("")).map(({ key }) => key);
    const saves = keys.filter((key) => key.startsWith("checkpoint-")).map((key) => key.split("/")[0]);
    return saves.some((save) => !keys.includes(`${save}/manifest.json`));
  });
}

test(
  "faults: radosgw killed in the middle of a save: retried, an alarm, no step disturbed, same losses and state",
  OPTIONS,
  async () => {
    const uri = "s3://runs/killed";
    const found = await run({ overrides: [`checkpoint.uri=${uri}`] }, async (cluster) => {
      await untilSaving(uri);
      await ceph.kill("gateway");
      await ceph.slowOsd(0);
      await cluster.follow(({ events }) => events.some(({ kind }) => kind === "alarm"));
      await ceph.run("gateway");
    });
    const alarms = found.record.events.filter(({ kind }) => kind === "alarm").map(({ message }) => message);
    assert.match(alarms[0]!, /the connection to http:\/\/127.* failed/, alarms.join("\n"));
    assert.equal(generations(found.record), 1, "no generation was formed anew");
    await assertSameRun(found);
  },
);

for (const daemon of ["gateway", "osd"] as const) {
  test(
    `faults: the ${daemon} of Ceph stopped in the middle of a save and going on later: no step disturbed, same losses and state`,
    OPTIONS,
    async () => {
      const uri = `s3://runs/stopped-${daemon}`;
      const found = await run({ overrides: [`checkpoint.uri=${uri}`] }, async (cluster) => {
        await untilSaving(uri);
        ceph.pause(daemon);
        await until(() => cluster.stepOnPages === 30);
        ceph.resume(daemon);
        await ceph.slowOsd(0);
      });
      assert.equal(generations(found.record), 1, "no generation was formed anew");
      await assertSameRun(found);
    },
  );
}
