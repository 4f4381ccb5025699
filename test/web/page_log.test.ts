import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Browser, Page } from "playwright-core";
import { commandJobSchema } from "../../job/command_job.js";
import { TestCluster } from "../faults/cluster.js";
import { until } from "../support/until.js";
import { auditPage } from "./audit_page.js";
import { NO_CHROMIUM, openBrowser, openPage } from "./browser.js";

/** The last lines of a rank, on the page beside a real run of a program that writes. */
const skip = NO_CHROMIUM;
/** As many as the page asks for. */
const LINES_MAX = 200;
/** Lines that are numbered from 1 at each start; every tenth says what a terminal or a page might take for more than text. */
const PROGRAM = `let n = 0;
setInterval(() => {
  n++;
  console.log(\`rank \${process.env.RANK} line \${n}\${n % 10 === 0 ? " <b>bold</b> \\u001b[31mred\\u001b[0m " + "far ".repeat(80) : ""}\`);
}, 50);`;
let browser: Browser;
let cluster: TestCluster;

before(async () => {
  if (skip !== false) return;
  browser = await openBrowser();
  cluster = await TestCluster.start();
  await cluster.submit(
    commandJobSchema.parse({
      name: "writer",
      trainer: { command: [process.execPath, "-e", PROGRAM] },
      layout: { dp_replicate: 1, dp_shard: 4, sp: 1 },
    }),
  );
});
after(async () => {
  await browser?.close();
  await cluster?.stop();
});

const box = (page: Page) => page.getByRole("region", { name: "Last lines of its log" });
/** Numbers of the lines on show, of that rank alone. */
async function numbers(page: Page, rank: number): Promise<number[]> {
  const lines = (await box(page).locator("pre").innerText()).trimEnd().split("\n");
  return lines.map((line) => {
    const told = /^\d\d:\d\d:\d\d {2}rank (\d) line (\d+)/.exec(line);
    assert.equal(Number(told?.[1]), rank, line);
    return Number(told![2]);
  });
}
/** How many pixels of lines are below what is seen. */
const below = (page: Page) =>
  box(page).evaluate((box) => Math.round(box.scrollHeight - box.scrollTop - box.clientHeight));

test("a rank's last lines come as it writes them: none left out, no other rank's, the end in sight until one looks back", {
  skip,
}, async () => {
  const { page, faults } = await openPage(browser, `${cluster.local.rest}/#/jobs/writer/ranks/1`);
  await until(async () => (await box(page).count()) === 1 && (await numbers(page, 1)).length === LINES_MAX);
  const shown = await numbers(page, 1);
  assert.deepEqual(
    shown,
    shown.map((_, i) => shown[0]! + i),
  );
  await until(async () => (await below(page)) < 8);
  const text = await box(page).innerText();
  assert.match(
    text,
    /<b>bold<\/b> red far/,
    "text, whatever it looks like, without what only a terminal understands",
  );
  assert.equal(await box(page).locator("b").count(), 0);

  await box(page).evaluate((box) => box.scrollTo(0, 0));
  await until(async () => (await numbers(page, 1)).at(-1)! > shown.at(-1)!);
  assert.equal(await box(page).evaluate(({ scrollTop }) => scrollTop), 0, "who looks back stays there");
  await box(page).evaluate((box) => box.scrollTo(0, box.scrollHeight));
  const from = (await numbers(page, 1)).at(-1)!;
  await until(async () => (await numbers(page, 1)).at(-1)! > from && (await below(page)) < 8);

  for (const colorScheme of ["light", "dark"] as const)
    for (const width of [1440, 390]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 900 });
      assert.deepEqual(await auditPage(page), [], `${colorScheme} ${width}`);
      const wide = await box(page).evaluate((box) => box.scrollWidth - box.clientWidth);
      assert.equal(wide, 0, `${colorScheme} ${width}: lines run out of their box`);
      await page.screenshot({ path: `/tmp/deploy-shots/log-${colorScheme}-${width}.png` });
    }
  assert.deepEqual(faults, []);
  await page.context().close();
});

test("a rank that is killed and started again: its lines go on from the first of the new process", {
  skip,
}, async () => {
  const { page } = await openPage(browser, `${cluster.local.rest}/#/jobs/writer/ranks/3`);
  await box(page).waitFor();
  await until(async () => (await numbers(page, 3)).at(-1)! > LINES_MAX);
  process.kill((await cluster.pidsOn(await cluster.nodeOf(3))).at(-1)!, "SIGKILL");
  await until(async () => {
    const shown = await numbers(page, 3);
    const first = shown.indexOf(1);
    return first > 0 && shown[first - 1]! > LINES_MAX && shown.length > first + 1;
  });
  await page.context().close();
});
