import type { Page } from "playwright-core";

/** What a job's page shows, read off it. */
export async function stepShown(page: Page): Promise<number> {
  return Number(await page.locator("[data-step]").getAttribute("data-step"));
}

/** Where the curve of the loss begins. */
export async function firstLoss(page: Page): Promise<string | undefined> {
  return /from (\S+)/.exec(await page.locator("figure", { hasText: "Loss" }).innerText())?.[1];
}
