import { median } from "../job/median.js";
import { TestCluster, testJob } from "../test/faults/cluster.js";
import { until } from "../test/support/until.js";
import { CHROMIUM, NO_CHROMIUM, openBrowser, openPage } from "../test/web/browser.js";
import { stepShown } from "../test/web/job_page.js";
import { judge } from "./figures.js";

/** From SIGKILL of a rank of a real job until the page, in a headless Chromium, names it. */
const SHOWN_MS_MAX = 2_000;
/** Each once, so that what is on show of one kill is not taken for the next. */
const RANKS = [3, 2, 1, 0];
/** Completed between two kills: the run is back at its pace. */
const STEPS_BETWEEN = 8;

async function main(): Promise<void> {
  if (CHROMIUM === null) {
    console.log(`SKIP (${NO_CHROMIUM})`);
    return;
  }
  const browser = await openBrowser();
  const cluster = await TestCluster.start({ nodes: 2 });
  try {
    await cluster.submit(await testJob(cluster.folder, ["train.steps=100000", "recovery.max_attempts=10"]));
    const { page } = await openPage(browser, cluster.local.rest);
    const why = page.getByRole("region", { name: "Why" });
    const shown: number[] = [];
    for (const rank of RANKS) {
      const from = (await page.locator("[data-step]").count()) === 0 ? 0 : await stepShown(page);
      await page.locator("[data-step]").waitFor();
      await until(async () => (await stepShown(page)) >= from + STEPS_BETWEEN);
      // Two on each of two nodes.
      const pid = (await cluster.pidsOn(await cluster.nodeOf(rank)))[rank % 2]!;
      const startMs = performance.now();
      process.kill(pid, "SIGKILL");
      await why
        .getByText(new RegExp(`rank ${rank} on node-\\w ended by SIGKILL`))
        .first()
        .waitFor();
      shown.push(performance.now() - startMs);
      await why.getByText("recovered", { exact: true }).waitFor();
    }
    const ms = (value: number) => `${Math.round(value)} ms`;
    const longest = Math.max(...shown);
    console.log(
      `from SIGKILL of a rank until the page names it, ${shown.length} times: median ${ms(median(shown))}, ` +
        `longest ${ms(longest)}; limit ${ms(SHOWN_MS_MAX)}  ${judge(longest, SHOWN_MS_MAX)}`,
    );
  } finally {
    await browser.close();
    await cluster.stop();
  }
}

await main();
