import { type Document, isMap, isPair, isScalar, LineCounter, type Node, parse, parseDocument } from "yaml";
import type { z } from "zod";
import { type AnyJob, isCommandJob, jobSchemaOf } from "./command_job.js";
import { GokuError } from "./errors.js";
import type { Job } from "./job.js";
import { nearestKey, schemaKeys } from "./job_keys.js";

type Path = readonly (string | number)[];
/** Where a value came from, as the reader of an error finds it. */
type Locate = (path: Path, target: "key" | "value") => string | null;

/** A job of our model, as loadAnyJob() reads it; one that runs a program of its own is refused. */
export function loadJob(yamlText: string, overrides: readonly string[], options: { file: string }): Job {
  return ofOurModel(loadAnyJob(yamlText, overrides, options), `job file ${options.file}`);
}

/**
 * A job from the text of its file and dotted overrides (`train.steps=20`, values typed as YAML), defaults filled in.
 * Relative paths stay as written; see absolutePaths().
 * @throws GokuError JOB_INVALID: one line that names the key, its line and column, what was found and what is wanted
 */
export function loadAnyJob(
  yamlText: string,
  overrides: readonly string[],
  options: { file: string },
): AnyJob {
  const lines = new LineCounter();
  const document = parseDocument(yamlText, { lineCounter: lines, uniqueKeys: true, prettyErrors: false });
  const syntax = document.errors[0];
  if (syntax) {
    const { line, col } = lines.linePos(syntax.pos[0]);
    const found = syntax.message.split("\n")[0]!.replace(/\.$/, "");
    throw new GokuError(
      "JOB_INVALID",
      `Cannot read job file ${options.file}: line ${line}, column ${col}: ${found}, want plain YAML`,
      { cause: syntax },
    );
  }
  if (document.contents !== null && !isMap(document.contents)) {
    throw new GokuError(
      "JOB_INVALID",
      `Cannot read job file ${options.file}: found ${show(document.toJS())}, want keys such as name, data and train`,
    );
  }
  const values = plainValues(document, options.file);
  const overridden = new Map<string, string>();
  for (const override of overrides) applyOverride(values, override, overridden);

  const locate: Locate = (path, target) => {
    for (let length = path.length; length > 0; length--) {
      const override = overridden.get(path.slice(0, length).join("."));
      if (override !== undefined) return `set by ${override}`;
    }
    const offset = offsetOf(document.contents, path, target);
    if (offset === null) return null;
    const { line, col } = lines.linePos(offset);
    return `line ${line}, column ${col}`;
  };
  return check(values, `job file ${options.file}`, locate);
}

function plainValues(document: Document.Parsed, file: string): Record<string, unknown> {
  try {
    return (document.toJS({ maxAliasCount: 100 }) ?? {}) as Record<string, unknown>;
  } catch (error) {
    // aliases that unfold without end, or name nothing
    throw new GokuError(
      "JOB_INVALID",
      `Cannot read job file ${file}: ${(error as Error).message.replace(/\.$/, "")}, write the values out`,
      { cause: error },
    );
  }
}

/** A job of our model from plain data; same checks and defaults as loadJob(). */
export function resolveJob(value: unknown, source = "job"): Job {
  return ofOurModel(resolveAnyJob(value, source), source);
}

/** A job from plain data, as REST receives it; same checks and defaults as loadAnyJob(). */
export function resolveAnyJob(value: unknown, source = "job"): AnyJob {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new GokuError(
      "JOB_INVALID",
      `Cannot use ${source}: found ${show(value)}, want keys such as name, data and train`,
    );
  }
  return check(value as Record<string, unknown>, source, () => null);
}

function ofOurModel(job: AnyJob, source: string): Job {
  if (!isCommandJob(job)) return job;
  throw new GokuError(
    "JOB_INVALID",
    `Cannot use ${source}: ${job.name} runs a program of its own (trainer.command), which alone knows its data and checkpoints; want a job with data and train`,
  );
}

function check(values: Record<string, unknown>, source: string, locate: Locate): AnyJob {
  const result = jobSchemaOf(values).safeParse(values);
  if (result.success) return result.data;
  const problems = result.error.issues.flatMap((issue) => explain(issue, [], values, locate));
  throw new GokuError("JOB_INVALID", `Cannot use ${source}: ${problems.join("; ")}`);
}

/** One phrase per problem: key, place, what was found, what is wanted. */
function explain(issue: z.core.$ZodIssue, prefix: Path, values: unknown, locate: Locate): string[] {
  const path = [...prefix, ...issue.path.map((part) => (typeof part === "symbol" ? String(part) : part))];
  if (issue.code === "unrecognized_keys") {
    return issue.keys.map((key) => {
      const dotted = [...path, key].join(".");
      const near = nearestKey(dotted);
      const place = locate([...path, key], "key");
      const found = `${dotted}${place ? ` (${place})` : ""}`;
      if (schemaKeys({ sections: true }).includes(dotted))
        return `${found} has no place beside trainer, whose program decides that itself: leave it out`;
      return `${found} is not a known key, ${near ? `did you mean ${near}` : "see docs/job-file.md for all keys"}`;
    });
  }
  if (issue.code === "invalid_key") {
    const wanted = issue.issues[0]?.message ?? issue.message;
    return [
      `${path.slice(0, -1).join(".")} (${locate(path, "key") ?? "given"}) holds ${show(path.at(-1))}, want ${wanted}`,
    ];
  }
  if (issue.code === "invalid_union") {
    const found = valueAt(values, path);
    const inner = issue.errors.at(-1);
    if (inner && typeof found === "object" && found !== null && !Array.isArray(found))
      return inner.flatMap((one) => explain(one, path, values, locate));
  }
  const found = valueAt(values, path);
  // the only schema nodes without a phrase of their own are sections
  const wanted = issue.message.startsWith("Invalid")
    ? `its keys ${childKeys(path.join("."))}`
    : issue.message;
  if (found === undefined && issue.code === "custom")
    return [`${path.join(".")} has its default, want ${wanted}`];
  if (found === undefined) return [`${path.join(".")} is missing, want ${wanted}`];
  const place = locate(path, "value");
  return [`${path.join(".")}${place ? ` (${place})` : ""} is ${show(found)}, want ${wanted}`];
}

function childKeys(section: string): string {
  const children = schemaKeys().filter((key) => key.startsWith(`${section}.`));
  return children.map((key) => key.slice(section.length + 1)).join(", ");
}

function applyOverride(
  values: Record<string, unknown>,
  override: string,
  overridden: Map<string, string>,
): void {
  const split = override.indexOf("=");
  if (split < 1)
    throw new GokuError(
      "JOB_INVALID",
      `Cannot apply override "${override}": want key=value, for example train.steps=20`,
    );
  const key = override.slice(0, split).trim();
  if (!schemaKeys({ sections: true }).includes(key)) {
    const near = nearestKey(key);
    throw new GokuError(
      "JOB_INVALID",
      `Cannot apply override "${override}": ${key} is not a known key, ${near ? `did you mean ${near}` : "see docs/job-file.md for all keys"}`,
    );
  }
  const path = key.split(".");
  let parent = values;
  for (const part of path.slice(0, -1)) {
    const child = parent[part];
    // a scalar such as "layout: auto" gives way to the section that the override opens
    if (typeof child !== "object" || child === null || Array.isArray(child)) parent[part] = {};
    parent = parent[part] as Record<string, unknown>;
  }
  parent[path.at(-1)!] = overrideValue(override, override.slice(split + 1));
  overridden.set(key, override);
}

function overrideValue(override: string, yaml: string): unknown {
  try {
    return parse(yaml, { prettyErrors: false, maxAliasCount: 0 });
  } catch (error) {
    throw new GokuError(
      "JOB_INVALID",
      `Cannot apply override "${override}": the value is not YAML (${(error as Error).message.split("\n")[0]!.replace(/\.$/, "")})`,
      { cause: error },
    );
  }
}

/** Character offset of a key or its value; of the deepest enclosing value when the path goes past what is written. */
function offsetOf(root: Node | null, path: Path, target: "key" | "value"): number | null {
  let node: unknown = root;
  let offset: number | null = null;
  for (const [depth, part] of path.entries()) {
    if (isMap(node)) {
      const pair = node.items.find(
        (item) => isPair(item) && isScalar(item.key) && String(item.key.value) === String(part),
      );
      if (!pair) return offset;
      const key = pair.key as Node;
      const value = pair.value as Node | null;
      const wanted = depth === path.length - 1 && target === "key" ? key : (value ?? key);
      offset = wanted.range?.[0] ?? offset;
      node = value;
    } else {
      const items = (node as { items?: unknown[] } | null)?.items;
      const item = items?.[Number(part)] as Node | undefined;
      if (!item) return offset;
      offset = item.range?.[0] ?? offset;
      node = item;
    }
  }
  return offset;
}

function valueAt(value: unknown, path: Path): unknown {
  let at = value;
  for (const part of path) {
    if (typeof at !== "object" || at === null || !Object.hasOwn(at, part)) return undefined;
    at = (at as Record<string | number, unknown>)[part];
  }
  return at;
}

/** A found value, short enough for one line. */
function show(value: unknown): string {
  if (value === null || value === undefined) return "empty";
  if (typeof value === "number") return String(value);
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}
