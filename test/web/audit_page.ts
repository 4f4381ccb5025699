import axe from "axe-core";
import type { Page } from "playwright-core";

/** What an audit of accessibility (WCAG 2.2 A and AA, and best practices) finds wrong, one line each. */
export async function auditPage(page: Page): Promise<string[]> {
  await page.evaluate(axe.source); // through the debugger, which the page's policy does not bind
  const { violations } = await page.evaluate(() => (globalThis as unknown as { axe: typeof axe }).axe.run());
  return violations.flatMap(({ id, help, nodes }) =>
    nodes.map(({ html, failureSummary = "" }) => `${id}: ${help}: ${html.slice(0, 200)} ${failureSummary}`),
  );
}
