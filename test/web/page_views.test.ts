import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { FastifyInstance } from "fastify";
import type { Browser, Page } from "playwright-core";
import { createToken } from "../../security/tokens.js";
import { tableOf } from "../support/guards.js";
import { SimulatedViews } from "../support/simulated_views.js";
import { until } from "../support/until.js";
import { auditPage } from "./audit_page.js";
import { NO_CHROMIUM, openBrowser, openPage } from "./browser.js";
import { serveViews } from "./simulated_page.js";

/** The page in a browser, over simulated views: 12,288 ranks, hostile texts, credentials. */
const skip = NO_CHROMIUM;
const big = { ranks: 12_288, ranksPerNode: 8, steps: 800, stepsTotal: 2_000 };
const operate = createToken("ops", "operate");
const read = createToken("eyes", "read");
let browser: Browser;
const apps: FastifyInstance[] = [];

before(async () => {
  if (skip === false) browser = await openBrowser();
});
after(async () => {
  await browser?.close();
  for (const app of apps) await app.close();
});

async function show(views: SimulatedViews, guard: Parameters<typeof serveViews>[1] = {}) {
  const { url, app } = await serveViews(views, guard);
  apps.push(app);
  return { url, ...(await openPage(browser, url)) };
}
const legend = (page: Page, health: string) => page.locator(`[data-health=${health}] b`).innerText();

test("12,288 ranks: each has its cell, those that are not well are named, a click on one shows it", {
  skip,
}, async () => {
  const { page, faults } = await show(new SimulatedViews(big));
  const cells = page.getByRole("application");
  await cells.waitFor();
  assert.deepEqual(
    [await legend(page, "failed"), await legend(page, "lost"), await legend(page, "slow")],
    ["1", "8", "13"],
  );
  await page.getByRole("link", { name: /rank 7495 on node-0936: failed/ }).click();
  const panel = page.getByRole("dialog");
  await panel.getByText("backward, layer 7").waitFor();
  await panel.getByText("rank 7495 at step 800").waitFor();
  await page.keyboard.press("Escape");
  await panel.waitFor({ state: "hidden" });
  await cells.click({ position: { x: 2, y: 2 } });
  await page.getByRole("heading", { name: "Rank 0" }).waitFor();
  assert.deepEqual(faults, []);
  await page.context().close();
});

test("checkpoints: which were read back and are whole, which is being read, and which is damaged", {
  skip,
}, async () => {
  const { page, faults } = await show(new SimulatedViews(big));
  const rows = page.getByRole("region", { name: "Checkpoints", exact: true }).getByRole("row");
  await rows.nth(3).waitFor();
  const texts = (await rows.allInnerTexts()).slice(1);
  assert.match(texts[0]!, /^300 .*committed\s+being read: 5 of 8 parts whole$/s);
  assert.match(texts[1]!, /^200 .*committed\s+verified \d\d:\d\d:\d\d$/s);
  assert.match(
    texts[2]!,
    /^100 .*not used: damaged: Cannot read checkpoint-100\/g3-w7.safetensors: MiB 3 differs\s+–$/s,
  );
  assert.deepEqual(await auditPage(page), []);
  assert.deepEqual(faults, []);
  await page.context().close();
});

test("arrow keys move over the ranks and say where they are, Enter shows one, and the focus comes back", {
  skip,
}, async () => {
  const { page } = await show(new SimulatedViews({ ...big, ranks: 64 }));
  const cells = page.getByRole("application");
  await cells.focus();
  for (const key of ["ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"]) await page.keyboard.press(key);
  await page.getByText("rank 1 on node-0000, training, step 800").waitFor();
  await page.keyboard.press("End");
  await page.getByText("rank 63 on node-0007").waitFor();
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Rank 63" }).waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  assert.equal(await cells.evaluate((element) => element === document.activeElement), true);
  await page.context().close();
});

test("steps come as they are completed, and those that are on show stay", { skip }, async () => {
  const views = new SimulatedViews({ ...big, ranks: 64 });
  const { page } = await show(views);
  await page.locator('[data-step="800"]').waitFor();
  views.complete();
  await page.locator('[data-step="801"]').waitFor();
  views.tell("alarm", "saving step 801 failed: the disk is full");
  await page.getByText("saving step 801 failed: the disk is full").waitFor();
  await page.context().close();
});

test("texts from outside are texts, whatever they look like", { skip }, async () => {
  const views = new SimulatedViews({ ...big, ranks: 64, name: "<img src=x onerror=alert(1)>" });
  const { page, faults } = await show(views);
  const hostile = "<script>document.title = 'broken'</script><b onclick=x>bold</b>";
  views.tell("incident", hostile);
  await page.getByText(hostile).waitFor();
  await page.getByRole("heading", { name: "<img src=x onerror=alert(1)>" }).waitFor();
  assert.equal(await page.locator("img, main script").count(), 0);
  assert.doesNotMatch(await page.title(), /broken/);
  assert.deepEqual(faults, []);
  await page.context().close();
});

test("with tokens: nothing is shown to who has none, the token stays in the tab, and its role decides what may be done", {
  skip,
}, async () => {
  const views = new SimulatedViews({ ...big, ranks: 64 });
  const table = tableOf([operate.line, read.line]);
  const told: unknown[] = [];
  const { page, url, faults } = await show(views, {
    tokens: () => table,
    audit: (entry) => told.push(entry),
  });
  const signIn = async (token: string) => {
    await page.getByLabel("Token").fill(token);
    await page.getByRole("button", { name: "Sign in" }).click();
  };
  await page.getByLabel("Token").waitFor();
  assert.deepEqual(await auditPage(page), []);
  assert.ok(told.length <= 2, `who has no token asks for events and jobs once, not ${told.length} times`);
  await signIn("goku_wrong");
  await page.getByRole("alert").filter({ hasText: "not in the controller's file" }).waitFor();
  await signIn(read.token);
  await page.getByText("eyes (read)").waitFor();
  await page.locator('[data-step="800"]').waitFor();
  assert.equal(
    await page.getByRole("button", { name: "Stop" }).count(),
    0,
    "who may only look is shown no action",
  );
  assert.equal(page.url(), `${url}/`);
  assert.equal(await page.evaluate(() => JSON.stringify(localStorage) + document.cookie), "{}");
  await page.getByRole("button", { name: "Sign out" }).click();
  await signIn(operate.token);
  await page.getByRole("button", { name: "Stop" }).click();
  await page.getByRole("button", { name: "Cancel" }).click();
  assert.deepEqual(views.asked, [], "nothing is done before it is confirmed");
  await page.getByRole("button", { name: "Stop" }).click();
  assert.deepEqual(await auditPage(page), []);
  await page.getByRole("button", { name: "Save and stop" }).click();
  await page.getByText("It saves and stops").waitFor();
  assert.match(views.asked.join(), /^stop 0000/);
  assert.deepEqual(faults, []);
  await page.context().close();
});

test("samples: clips of one prompt side by side, newest first; nothing where the controller has no such path", {
  skip,
}, async () => {
  const views = new SimulatedViews({ ...big, ranks: 64 });
  const { page, url } = await show(views);
  await page.locator('[data-step="800"]').waitFor();
  assert.equal(await page.getByRole("heading", { name: "Samples by step" }).count(), 0);
  const previews = [100, 200].map((step) => ({
    ...{ generation: 1, step, prompts: ["a red circle", "a blue square"] },
    files: ["sheet.png", "clip-1.mp4", "clip-2.mp4"].map((name) => ({ name: `g1-${name}`, bytes: 4 })),
  }));
  const asked: string[] = [];
  await page.route("**/previews", (route) => route.fulfill({ json: { previews } }));
  await page.route("**/previews/*/*", (route) => {
    asked.push(new URL(route.request().url()).pathname.split("/").slice(-2).join("/"));
    return route.fulfill({ body: Buffer.from("clip"), contentType: "video/mp4" });
  });
  await page.goto(`${url}/?again`);
  const samples = page.getByRole("region", { name: "Samples, newest first" });
  await samples.getByText("step 100").waitFor();
  assert.deepEqual(await samples.locator("figcaption").allInnerTexts(), ["step 200", "step 100"]);
  await until(async () => (await samples.locator("video").count()) === 2);
  await page.getByLabel("Prompt").selectOption("a blue square");
  await until(() => asked.includes("100/g1-clip-2.mp4") && asked.includes("200/g1-clip-2.mp4"));
  // What was on show stays, as what it is, until the other one is there.
  await samples.getByLabel("a blue square, drawn at step 200").waitFor();
  await samples.getByLabel("a blue square, drawn at step 100").waitFor();
  assert.equal(await samples.getByLabel(/a red circle/).count(), 0);
  assert.deepEqual(await auditPage(page), []);
  await page.context().close();
});

test("a node is drained from its rank, once that is confirmed", { skip }, async () => {
  const views = new SimulatedViews({ ...big, ranks: 64 });
  const { page } = await show(views);
  await page.getByRole("application").click({ position: { x: 4, y: 24 } });
  await page.getByRole("button", { name: "Drain node-0000" }).click();
  await page.getByRole("button", { name: "Drain", exact: true }).click();
  await page.getByText("node-0000 is being drained").waitFor();
  assert.deepEqual(views.asked, ["drain node-0000"]);
  await page.context().close();
});

test("no violation of accessibility rules: light and dark, wide and phone, with a rank open, slowness, nodes", {
  skip,
}, async () => {
  const { url, app } = await serveViews(new SimulatedViews({ ...big, ranks: 512 }));
  apps.push(app);
  for (const colorScheme of ["light", "dark"] as const)
    for (const viewport of [
      { width: 1440, height: 900 },
      { width: 390, height: 844 },
    ]) {
      const { page } = await openPage(browser, url, { colorScheme, viewport });
      await page.getByRole("application").waitFor();
      const where = `${colorScheme} ${viewport.width}`;
      assert.deepEqual(await auditPage(page), [], where);
      await page.getByRole("button", { name: "Slowness" }).click();
      assert.deepEqual(await auditPage(page), [], `${where}, slowness`);
      const width = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(width <= viewport.width, `${where}: ${width} pixels wide`);
      await page.goto(`${url}/#/jobs/big/ranks/3`);
      await page.getByText("rank 3 at step 800").waitFor();
      assert.deepEqual(await auditPage(page), [], `${where}, a rank`);
      await page.keyboard.press("Escape");
      await page.getByRole("link", { name: "Nodes" }).click();
      await page.getByRole("button", { name: "Drain node-0000" }).waitFor();
      assert.deepEqual(await auditPage(page), [], `${where}, nodes`);
      await page.context().close();
    }
});
