import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Browser, Page } from "playwright-core";
import { TestCluster, testJob } from "../faults/cluster.js";
import { until } from "../support/until.js";
import { auditPage } from "./audit_page.js";
import { NO_CHROMIUM, openBrowser, openPage } from "./browser.js";
import { firstLoss, stepShown as stepOn } from "./job_page.js";

/** The page beside a real run: a controller, three agents, four ranks on two of them. The tests go on from one another. */
const skip = NO_CHROMIUM;
const STEPS = 100_000;
let browser: Browser;
let cluster: TestCluster;
let page: Page;
let faults: string[];

before(async () => {
  if (skip !== false) return;
  browser = await openBrowser();
  cluster = await TestCluster.start({ nodes: 3 });
  await cluster.submit(
    await testJob(cluster.folder, [
      `train.steps=${STEPS}`,
      "checkpoint.every_steps=50",
      "recovery.stall_seconds=20",
    ]),
  );
  ({ page, faults } = await openPage(browser, cluster.local.rest));
});
after(async () => {
  await browser?.close();
  await cluster?.stop();
});

/** As the page shows it. */
const stepShown = () => stepOn(page);
const training = async () => await page.locator("[data-health=training] b").innerText();
const why = () => page.getByRole("region", { name: "Why" });
/** Of a generation that no agent tells of any more, once a rank was killed. */
const lossFrom = () => firstLoss(page);
/** Somebody opens the page just now. */
async function looksLater(look: (later: Page) => Promise<void>): Promise<void> {
  const { page: later } = await openPage(browser, cluster.local.rest);
  await later.getByText("Live", { exact: true }).waitFor();
  await look(later);
  await later.context().close();
}
/** What whoever looks later sees of the time before the controller was killed. */
async function seesTheBeginning(later: Page, first: string | undefined): Promise<void> {
  await until(async () => (await firstLoss(later)) === first);
  await later
    .getByRole("region", { name: "Events", exact: true })
    .getByText(/generation 1 trains/)
    .waitFor();
}
async function reaches(step: number): Promise<void> {
  await until(async () => (await stepShown()) >= step);
}

test("a run is shown as it goes: progress, curves, ranks, checkpoints, events with reasons", {
  skip,
}, async () => {
  await reaches(5);
  await page.getByRole("progressbar", { name: "Steps of faults" }).waitFor();
  await until(async () => (await training()) === "4");
  assert.match((await lossFrom()) ?? "", /^\d+\.\d+$/);
  await page.locator("figure", { hasText: "Throughput" }).locator("canvas").waitFor();
  await page
    .getByRole("region", { name: "Events", exact: true })
    .getByText(/generation 1 trains/)
    .waitFor();
  await page
    .getByRole("region", { name: "Checkpoints", exact: true })
    .getByText("committed", { exact: true })
    .first()
    .waitFor();
  await page.getByText("No incident so far").waitFor();
  assert.deepEqual(await auditPage(page), []);
});

test("a rank: its node, what it does now, and its time", { skip }, async () => {
  await page.getByRole("application").focus();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  const panel = page.getByRole("dialog");
  await panel.getByText("127.0.0.1").waitFor();
  await panel.getByText("waiting for ranks").waitFor();
  await page.keyboard.press("Escape");
  await panel.waitFor({ state: "hidden" });
});

test("a rank is killed: the page shows which (how soon is bench/page_kill.ts's to judge), then what was decided, and that it trains again", {
  skip,
}, async () => {
  const victim = (await cluster.pidsOn(await cluster.nodeOf(3))).at(-1)!;
  const before = await stepShown();
  process.kill(victim, "SIGKILL");
  await why()
    .getByText(/rank 3 on node-\w ended by SIGKILL/)
    .first()
    .waitFor();
  await why().getByText("recovered", { exact: true }).waitFor();
  await why()
    .getByText(/restore from memory/)
    .waitFor();
  await why().getByText("stepped").waitFor();
  await reaches(before + 5);
  await until(async () => (await training()) === "4");
});

test("the controller is killed and comes back: the page says so meanwhile, and keeps all that is on show", {
  skip,
}, async () => {
  const first = await lossFrom();
  const before = await stepShown();
  process.kill(cluster.local.pid("controller"), "SIGKILL");
  await page.getByText(/Reconnecting; shown is what was known at/).waitFor();
  assert.equal(await lossFrom(), first);
  await page.getByText("Live", { exact: true }).waitFor();
  await reaches(before + 5);
  await until(async () => (await training()) === "4");
  assert.equal(await lossFrom(), first, "what only the controller before could tell is still there");
  await looksLater((later) => seesTheBeginning(later, first));
  await why()
    .getByText(/rank 3 on node-\w ended by SIGKILL/)
    .first()
    .waitFor();
});

test("a node is drained: its ranks go on elsewhere, no step is computed twice, and it is released again", {
  skip,
}, async () => {
  const nodeId = await cluster.nodeOf(3);
  const before = await stepShown();
  await page.getByRole("link", { name: "Nodes" }).click();
  const row = page.locator(`[data-node=${nodeId}]`);
  await row.getByRole("button").click();
  await page.getByRole("button", { name: "Drain", exact: true }).click();
  await row.getByText("drained by a person").waitFor();
  await page
    .getByRole("navigation")
    .getByRole("link", { name: /^faults/ })
    .click();
  await why().getByText(`${nodeId} is drained, asked to by a person`).first().waitFor();
  await why().getByText("recovered", { exact: true }).waitFor();
  await reaches(before + 5);
  const { incidents } = await cluster.client.call("listIncidents", { job: "faults" });
  assert.equal(incidents.at(-1)?.stepsLost, 0n);
  assert.notEqual(await cluster.nodeOf(3), nodeId);
  await page.getByRole("link", { name: "Nodes" }).click();
  await row.getByRole("button", { name: `Release ${nodeId}` }).click();
  await page.getByRole("button", { name: "Release", exact: true }).click();
  await row.getByRole("button", { name: `Drain ${nodeId}` }).waitFor();
  await page
    .getByRole("navigation")
    .getByRole("link", { name: /^faults/ })
    .click();
});

test("checkpoint now, then stop: both are asked for, done, and told", { skip }, async () => {
  const saved = page.getByRole("region", { name: "Events", exact: true });
  await page.getByRole("button", { name: "Checkpoint now" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Checkpoint now" }).click();
  await saved
    .getByText(/save a job/)
    .first()
    .waitFor();
  await page.getByRole("button", { name: "Stop" }).click();
  await page.getByRole("button", { name: "Save and stop" }).click();
  await page.locator("[data-phase=STOPPED]").waitFor();
  await page.getByText("The run is over; it has no ranks any more").waitFor();
  assert.equal(await page.getByRole("button", { name: "Stop" }).count(), 0);
  assert.deepEqual(await auditPage(page), []);
  assert.deepEqual(faults, []);
  await cluster.follow();
});

test("the controller is killed when the run is over: who looks later sees all of it", { skip }, async () => {
  const [first, last] = [await lossFrom(), await stepShown()];
  process.kill(cluster.local.pid("controller"), "SIGKILL");
  await page.getByText(/Reconnecting; shown is what was known at/).waitFor();
  await page.getByText("Live", { exact: true }).waitFor();
  await looksLater(async (later) => {
    await seesTheBeginning(later, first);
    assert.equal(await stepOn(later), last);
    assert.equal(await later.locator("[data-phase=STOPPED]").count(), 1);
  });
});
