import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Browser } from "playwright-core";
import { TestCluster, testJob } from "../faults/cluster.js";
import { ETCD_SKIP, EtcdServers } from "../support/etcd_servers.js";
import { until } from "../support/until.js";
import { NO_CHROMIUM, openBrowser, openPage } from "./browser.js";
import { firstLoss, stepShown } from "./job_page.js";

/** The page at two controllers on etcd, of which the one that leads is killed. */
const skip = ETCD_SKIP || NO_CHROMIUM;
let servers: EtcdServers;
let cluster: TestCluster;
let browser: Browser;

before(async () => {
  if (skip !== false) return;
  browser = await openBrowser();
  servers = await EtcdServers.start();
  const store = `etcd://${servers.endpoints.join(",")}/page`;
  cluster = await TestCluster.start({ nodes: 2, standbys: 1, store });
  await cluster.submit(await testJob(cluster.folder, ["train.steps=100000", "checkpoint.every_steps=50"]));
});
after(async () => {
  await browser?.close();
  await cluster?.stop();
  await servers?.stop();
});

test("the leader is killed: who opens the page at the other one sees the curves and events from before", {
  skip,
}, async () => {
  const { page, faults } = await openPage(browser, cluster.local.addressOf(0).rest);
  await until(async () => (await stepShown(page)) >= 5);
  process.kill((await cluster.pidsOn(await cluster.nodeOf(3))).at(-1)!, "SIGKILL");
  const why = page.getByRole("region", { name: "Why" });
  await why.getByText("recovered", { exact: true }).waitFor();
  const step = await stepShown(page);
  await until(async () => (await stepShown(page)) >= step + 5);
  const first = await firstLoss(page);
  assert.match(first ?? "", /^\d+\.\d+$/);
  assert.deepEqual(faults, []); // later it asks the other one: where it was sent by the first, started again

  process.kill(cluster.local.pid("controller"), "SIGKILL");
  const { rest } = cluster.local.addressOf(1);
  await until(async () => (await fetch(`${rest}/readyz`)).ok); // until then it sends readers to the one that was killed
  const { page: later, faults: laterFaults } = await openPage(browser, rest);
  await later.getByText("Live", { exact: true }).waitFor();
  const killed = await stepShown(page);
  await until(async () => (await stepShown(later)) >= killed + 5);
  // Of a generation that no agent tells of any more.
  await until(async () => (await firstLoss(later)) === first);
  const events = later.getByRole("region", { name: "Events", exact: true });
  await events.getByText(/generation 1 trains/).waitFor();
  await events
    .getByText(/generation 2 trains/)
    .first()
    .waitFor();
  assert.deepEqual(laterFaults, []);
});

test("etcd does not answer: the page goes on from memory, says so, and is live again with it", {
  skip,
}, async () => {
  const rests = [0, 1].map((controller) => cluster.local.addressOf(controller).rest);
  let rest = "";
  await until(async () => {
    for (const each of rests) if ((await fetch(`${each}/readyz`).catch(() => null))?.ok) rest = each;
    return rest !== "";
  });
  const { page } = await openPage(browser, rest);
  const says = page.getByRole("banner").getByRole("status");
  await until(async () => (await says.innerText()) === "Live");
  const known = await stepShown(page);
  process.kill(servers.pid(0), "SIGSTOP");
  try {
    const remembers = /^From memory, as of [\d:]+: .* store since [\d:]+; training/;
    await until(async () => remembers.test(await says.innerText()));
    assert.ok((await stepShown(page)) >= known);
  } finally {
    process.kill(servers.pid(0), "SIGCONT");
  }
  await until(async () =>
    /^(Live|This controller stands by; another one leads)$/.test(await says.innerText()),
  );
});
