import { median } from "../job/median.js";
import { SimulatedViews } from "../test/support/simulated_views.js";
import { CHROMIUM, NO_CHROMIUM, openBrowser, openPage } from "../test/web/browser.js";
import { serveViews } from "../test/web/simulated_page.js";

/**
 * The web page with 12,288 ranks in a headless Chromium, drawn by the processor: how long it takes to show, its frames while
 * steps come ten times a second and the pointer moves over the ranks, and what one look costs the controller.
 */
const RUN = { ranks: 12_288, ranksPerNode: 8, steps: 1_000, stepsTotal: 2_000 };
const SECONDS = 10;
const STEP_MS = 100;

function line(name: string, value: string): void {
  console.log(`${name.padEnd(58)}${value.padStart(24)}`);
}

async function measureAnswers(url: string): Promise<void> {
  for (const path of ["ranks", "curves"]) {
    const times: number[] = [];
    let bytes = 0;
    for (let i = 0; i < 10; i++) {
      const startMs = performance.now();
      bytes = (await (await fetch(`${url}/v1/jobs/big/${path}`)).arrayBuffer()).byteLength;
      times.push(performance.now() - startMs);
    }
    line(`GET /v1/jobs/{name}/${path}`, `${median(times).toFixed(1)} ms, ${Math.round(bytes / 1000)} KB`);
  }
}

async function main(): Promise<void> {
  if (CHROMIUM === null) {
    console.log(`SKIP (${NO_CHROMIUM})`);
    return;
  }
  const views = new SimulatedViews(RUN);
  const { url, app } = await serveViews(views);
  const browser = await openBrowser();
  try {
    await measureAnswers(url);
    const startMs = performance.now();
    const { page } = await openPage(browser, url, { viewport: { width: 1440, height: 900 } });
    await page.locator("[data-health=training]").waitFor();
    line("from the address to all ranks on show", `${Math.round(performance.now() - startMs)} ms`);
    const cells = page.getByRole("application");
    await cells.scrollIntoViewIfNeeded();
    const box = (await cells.boundingBox())!;
    const steps = setInterval(() => views.complete(), STEP_MS);
    await page.evaluate(() => {
      const frames: number[] = [];
      Object.assign(globalThis, { frames });
      let lastMs = performance.now();
      const frame = (nowMs: number) => {
        frames.push(nowMs - lastMs);
        lastMs = nowMs;
        requestAnimationFrame(frame);
      };
      requestAnimationFrame(frame);
    });
    const endMs = performance.now() + 1000 * SECONDS;
    for (let i = 0; performance.now() < endMs; i++)
      await page.mouse.move(box.x + ((i * 17) % box.width), box.y + ((i * 5) % Math.min(box.height, 400)));
    clearInterval(steps);
    const frames = (await page.evaluate("frames")) as number[];
    frames.sort((a, b) => a - b);
    const at = (share: number) => `${frames[Math.floor(share * (frames.length - 1))]!.toFixed(1)} ms`;
    line("frame while steps come and the pointer moves: median", at(0.5));
    line("  95 of 100 frames within", at(0.95));
    line("  longest", at(1));
  } finally {
    await browser.close();
    await app.close();
  }
}

await main();
