import { existsSync } from "node:fs";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";

const PLACES = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];

/** Path of a Chromium; null: this machine has none. */
export const CHROMIUM = [process.env.CHROMIUM ?? "", ...PLACES].find((place) => existsSync(place)) ?? null;
/** For `skip` of tests that need one. */
export const NO_CHROMIUM =
  CHROMIUM === null ? "no Chromium: apt-get install chromium, or name one in CHROMIUM" : false;

/** Far above what a busy machine takes. */
const WAIT_MS = 120_000;

export function openBrowser(): Promise<Browser> {
  // Root has no sandbox of its own, and what is shown comes from this test alone.
  return chromium.launch({ executablePath: CHROMIUM!, args: ["--no-sandbox"], timeout: WAIT_MS });
}

/** A page, and what went wrong in it: errors, violations of its policy, and requests to anywhere but its own site. */
export async function openPage(
  browser: Browser,
  url: string,
  options: BrowserContextOptions = {},
): Promise<{ page: Page; faults: string[] }> {
  const faults: string[] = [];
  const context = await browser.newContext(options);
  context.setDefaultTimeout(WAIT_MS);
  const page = await context.newPage();
  page.on("pageerror", (error) => faults.push(error.stack ?? error.message));
  page.on("console", (message) => {
    if (/Content Security Policy|Uncaught/i.test(message.text())) faults.push(message.text());
  });
  page.on("request", (request) => {
    const { origin, protocol } = new URL(request.url());
    if (protocol !== "blob:" && origin !== new URL(url).origin) faults.push(`asked ${request.url()}`);
  });
  await page.goto(url);
  return { page, faults };
}
