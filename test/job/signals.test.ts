import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { SIGNALS } from "../../job/signals/catalogue.js";
import { COUNTERS, LINKS } from "../../job/signals/counters.js";
import { KERNEL_LINES } from "../../job/signals/kernel_lines.js";
import { LOG_WORDS } from "../../job/signals/log_words.js";
import { SIGNAL_CLASSES } from "../../job/signals/signal_kind.js";
import { XIDS, xidKind } from "../../job/signals/xids.js";
import { signalsPage } from "../../scripts/signals_page.js";
import { REPOSITORY } from "./repository.js";

test("docs/hardware-signals.md is what the catalogue makes it; else run node dist/scripts/signals_page.js", () => {
  assert.equal(readFileSync(path.join(REPOSITORY, "docs/hardware-signals.md"), "utf8"), signalsPage());
});

test("every kind has a name of its own, and a class that there is", () => {
  const tables = LOG_WORDS.length + XIDS.size + KERNEL_LINES.length;
  const counted = Object.keys(COUNTERS).length + Object.keys(LINKS).length;
  assert.equal(SIGNALS.size, tables + counted + 2, "and python_error, and xid.other");
  const classes: readonly string[] = SIGNAL_CLASSES;
  for (const [name, kind] of SIGNALS) assert.ok(classes.includes(kind.class), `${name}: ${kind.class}`);
});

test("no word that a rank may write quarantines its node or takes its ranks, and only a machine's fault is acted on", () => {
  for (const [name, { source, cause, action }] of SIGNALS) {
    if (source === "log") assert.ok(action === "note" || action === "suspect", `${name}: ${action}`);
    if (cause !== "machine") assert.equal(action, "note", name);
  }
});

test("Xids of applications are noted, those that need a reset quarantine, those of wear give the ranks away", () => {
  const actionOf = (xid: number) => SIGNALS.get(xidKind(xid))!.action;
  for (const xid of [13, 31, 43, 45, 12345]) assert.equal(actionOf(xid), "note", `${xid}`);
  for (const xid of [48, 62, 64, 74, 79, 95, 119, 120]) assert.equal(actionOf(xid), "quarantine", `${xid}`);
  for (const xid of [61, 63, 92, 94]) assert.equal(actionOf(xid), "replace", `${xid}`);
});
