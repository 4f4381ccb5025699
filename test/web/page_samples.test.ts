import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import type { Browser, Locator, Page } from "playwright-core";
import sharp from "sharp";
import { TestCluster, testJob } from "../faults/cluster.js";
import { until } from "../support/until.js";
import { auditPage } from "./audit_page.js";
import { NO_CHROMIUM, openBrowser, openPage } from "./browser.js";

/** What a model draws while it trains, on the page beside a real run: the very files that are stored, step by step. */
const skip = NO_CHROMIUM;
const PROMPTS = ["a red circle", "a blue square moving right"];
let browser: Browser;

before(async () => {
  if (skip === false) browser = await openBrowser();
});
after(async () => {
  await browser?.close();
});

/** A job that draws its prompts for ever, its page, and the folder of what it has drawn. */
async function whileDrawing(
  frames: number,
  body: (shown: { page: Page; samples: Locator; rest: string; folder: string }) => Promise<void>,
): Promise<void> {
  const cluster = await TestCluster.start();
  try {
    const job = await testJob(cluster.folder, [
      "train.steps=100000",
      "recovery.stall_seconds=20",
      `sample.prompts=[${PROMPTS.join(", ")}]`,
      ...["sample.steps=2", "sample.every_steps=10", "sample.keep_last=1000", `sample.frames=${frames}`],
    ]);
    await cluster.submit(job);
    const { page, faults } = await openPage(browser, cluster.local.rest);
    const folder = path.join(job.checkpoint.uri.replace("file://", ""), "previews");
    const samples = samplesOn(page);
    await body({ page, samples, rest: cluster.local.rest, folder });
    assert.deepEqual(faults, []);
    await page.context().close();
  } catch (error) {
    throw new Error(`${(error as Error).stack}\n${cluster.logs}`);
  } finally {
    await cluster.stop();
  }
}

const samplesOn = (page: Page) => page.getByRole("region", { name: "Samples, newest first" });
/** Steps in the order shown. */
const steps = async (samples: Locator) =>
  (await samples.locator("figcaption").allInnerTexts()).map((text) => Number(text.replace("step ", "")));
const chooses = (page: Page, prompt: string) => page.getByLabel("Prompt").selectOption(prompt);

/** Every picture that is on show and loaded, with its words and what is seen of it: RGBA, row after row. */
async function pictures(samples: Locator): Promise<{ alt: string; width: number; rgba: number[] }[]> {
  return await samples.locator("img").evaluateAll((all) =>
    (all as HTMLImageElement[])
      .filter(({ complete }) => complete)
      .map((image) => {
        const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
        const pen = canvas.getContext("2d")!;
        pen.drawImage(image, 0, 0);
        const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
        return { alt: image.alt, width: image.naturalWidth, rgba: [...data] };
      }),
  );
}

async function holdsAudits(page: Page): Promise<void> {
  for (const colorScheme of ["light", "dark"] as const)
    for (const width of [1440, 390]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 900 });
      assert.deepEqual(await auditPage(page), [], `${colorScheme} ${width}`);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(wide <= width, `${colorScheme} ${width}: ${wide} pixels wide`);
    }
}

test("pictures of one prompt side by side as they are drawn, each the pixels that are stored for its step", {
  skip,
}, async () => {
  await whileDrawing(1, async ({ page, samples, folder }) => {
    for (const [i, prompt] of PROMPTS.entries()) {
      if (i > 0) await chooses(page, prompt);
      const drawn = new RegExp(`^${prompt}, drawn at step (\\d+)$`);
      await until(async () => {
        const all = await pictures(samples);
        return all.length >= 3 && all.every(({ alt }) => drawn.test(alt));
      });
      const order = await steps(samples);
      assert.deepEqual(
        order,
        order.toSorted((a, b) => b - a),
      );
      for (const { alt, width, rgba } of await pictures(samples)) {
        const file = path.join(folder, `step-${drawn.exec(alt)![1]}/g1-picture-${i + 1}.png`);
        const stored = await sharp(file).ensureAlpha().raw().toBuffer({ resolveWithObject: true });
        assert.equal(width, stored.info.width, alt);
        assert.deepEqual(rgba, [...stored.data], alt);
      }
    }
    assert.equal(await page.getByRole("button", { name: "Pause" }).count(), 0, "nothing moves");
    await holdsAudits(page);
  });
});

test("clips of one prompt side by side: the files that are stored, all in motion until they are paused, and none for who wants no motion", {
  skip,
}, async () => {
  await whileDrawing(5, async ({ page, samples, rest, folder }) => {
    const got = new Map<string, string>();
    const digest = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");
    // On their way, since what a page reads as a blob its browser does not tell again.
    await page.route("**/previews/*/*", async (route) => {
      const response = await route.fetch();
      const bytes = await response.body();
      got.set(new URL(route.request().url()).pathname.split("/").slice(-2).join("/"), digest(bytes));
      await route.fulfill({ response, body: bytes });
    });
    const clips = samples.locator("video");
    await until(async () => (await clips.count()) >= 3);
    await samples.scrollIntoViewIfNeeded();
    await chooses(page, PROMPTS[1]!);
    await until(() => [...got.keys()].filter((name) => name.endsWith("clip-2.mp4")).length >= 3);
    for (const [name, bytes] of got)
      assert.equal(bytes, digest(readFileSync(path.join(folder, `step-${name}`))), name);

    const first = clips.first();
    const read = <T>(field: "paused" | "currentTime" | "videoWidth") =>
      first.evaluate((clip, name) => (clip as HTMLVideoElement)[name] as T, field);
    await until(async () => (await first.getAttribute("aria-label"))?.startsWith(PROMPTS[1]!) ?? false);
    assert.equal(await read("videoWidth"), 256);
    await until(async () => (await read<number>("currentTime")) > 0);
    await page.getByRole("button", { name: "Pause" }).click();
    const moving = () =>
      clips.evaluateAll((all) => (all as HTMLVideoElement[]).filter(({ paused }) => !paused).length);
    assert.equal(await moving(), 0);
    await page.getByRole("button", { name: "Play" }).click();
    await until(async () => (await moving()) > 0);
    await holdsAudits(page);

    const { page: still } = await openPage(browser, rest, { reducedMotion: "reduce" });
    const unmoved = samplesOn(still).locator("video");
    await unmoved.first().waitFor();
    await still.getByRole("button", { name: "Play" }).waitFor();
    assert.ok(await unmoved.first().evaluate((clip) => (clip as HTMLVideoElement).paused));
    await still.context().close();
  });
});
