import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, it } from "node:test";
import { absolutePaths } from "../../job/absolute_paths.js";
import { GokuError } from "../../job/errors.js";
import { modelConfig } from "../../job/job.js";
import { schemaKeys } from "../../job/job_keys.js";
import { loadJob, resolveJob } from "../../job/load_job.js";
import { REPOSITORY } from "./repository.js";

const SMALLEST = `name: shapes
data: { media: ./data/shapes }
train:
  steps: 600
checkpoint: { uri: file://./runs/shapes }
`;

function load(yaml: string, ...overrides: string[]) {
  return loadJob(yaml, overrides, { file: "a.yaml" });
}

function refusal(yaml: string, ...overrides: string[]): string {
  try {
    load(yaml, ...overrides);
  } catch (error) {
    assert.ok(error instanceof GokuError && error.code === "JOB_INVALID", String(error));
    assert.doesNotMatch(error.message, /\n/);
    assert.doesNotMatch(error.message, /\.$/);
    return error.message;
  }
  return assert.fail("the job was accepted");
}

describe("loadJob()", () => {
  it("fills in every default of the smallest job", () => {
    const job = load(SMALLEST);
    assert.deepEqual(job.train, { steps: 600, packs_per_step: 4, tokens_per_pack: 512 });
    assert.deepEqual(job.data.codec.stride, [2, 4, 4]);
    assert.equal(job.layout, "auto");
    assert.equal(modelConfig(job).width, 128);
  });

  it("types dotted overrides as YAML and lets them open sections", () => {
    const job = load(
      SMALLEST,
      "train.steps=20",
      "optimizer.betas=[0.8, 0.9]",
      "layout.sp=2",
      "sample.prompts=[a cat, a dog]",
      "optimizer.lr=1.0e-4",
    );
    assert.equal(job.train.steps, 20);
    assert.deepEqual(job.optimizer.betas, [0.8, 0.9]);
    assert.deepEqual(job.layout, { dp_replicate: 1, dp_shard: 1, sp: 2 });
    assert.deepEqual(job.sample.prompts, ["a cat", "a dog"]);
    assert.equal(job.optimizer.lr, 1e-4);
  });

  it("takes the keys of what is not built yet with the value that says no", () => {
    const job = load(
      `${SMALLEST}recovery: { spares: 0 }\nsample: { every_steps: 0, prompts: [a red circle] }\n`,
    );
    assert.deepEqual([job.recovery.spares, job.sample.every_steps], [0, 0]);
  });

  it("overrides single keys of the preset and leaves the others", () => {
    const config = modelConfig(load(SMALLEST, "model.depth=2"));
    assert.deepEqual([config.depth, config.width, config.heads, config.patch], [2, 128, 4, [1, 2, 2]]);
  });

  const table: [name: string, yaml: string, overrides: string[], message: string][] = [
    [
      "an unknown key",
      `${SMALLEST}stpes: 3\n`,
      [],
      "stpes (line 6, column 1) is not a known key, did you mean train.steps",
    ],
    [
      "an unknown key in a section",
      SMALLEST.replace("600", "600\n  packs_per_stp: 4"),
      [],
      "train.packs_per_stp (line 5, column 3) is not a known key, did you mean train.packs_per_step",
    ],
    [
      "another trainer's word",
      SMALLEST.replace("600", "600\n  learning_rate: 4"),
      [],
      "did you mean optimizer.lr",
    ],
    [
      "a word instead of a number",
      SMALLEST.replace("600", "many"),
      [],
      'train.steps (line 4, column 10) is "many", want a whole number of at least 1',
    ],
    [
      "a number below its range",
      `${SMALLEST}layout: { sp: 0 }\n`,
      [],
      "layout.sp (line 6, column 15) is 0, want a whole number of at least 1",
    ],
    [
      "a layout of another kind",
      `${SMALLEST}layout: [1]\n`,
      [],
      "layout (line 6, column 9) is [1], want auto, or any of dp_replicate, dp_shard and sp",
    ],
    [
      "a wrong element of a list",
      `${SMALLEST}sample: { prompts: [a, 3] }\n`,
      [],
      "sample.prompts.1 (line 6, column 24) is 3, want a prompt",
    ],
    [
      "spare nodes, which are not built yet",
      `${SMALLEST}recovery: { spares: 1 }\n`,
      [],
      "recovery.spares (line 6, column 21) is 1, want 0, since spare nodes are not supported yet",
    ],
    [
      "previews, which are not built yet",
      `${SMALLEST}sample: { every_steps: 200 }\n`,
      [],
      "sample.every_steps (line 6, column 24) is 200, want 0, since previews while training are not supported yet",
    ],
    [
      "a missing key",
      SMALLEST.replace("steps: 600", "packs_per_step: 2"),
      [],
      "train.steps is missing, want a whole number of at least 1",
    ],
    [
      "an unknown preset",
      SMALLEST,
      ["model.preset=goku-9b"],
      'model.preset (set by model.preset=goku-9b) is "goku-9b", want one of goku-nano, goku-1b, goku-2b, goku-8b',
    ],
    [
      "a wrong override",
      SMALLEST,
      ["train.steps=0"],
      "train.steps (set by train.steps=0) is 0, want a whole number of at least 1",
    ],
    [
      "an override of an unknown key",
      SMALLEST,
      ["steps=3"],
      'Cannot apply override "steps=3": steps is not a known key, did you mean train.steps',
    ],
    ["an override without a value", SMALLEST, ["train.steps"], "want key=value, for example train.steps=20"],
    ["an override of a prototype", SMALLEST, ["__proto__.x=1"], "__proto__.x is not a known key"],
    ["an override that is not YAML", SMALLEST, ["train.steps=["], "the value is not YAML"],
    [
      "a width that heads do not divide",
      SMALLEST,
      ["model.width=130"],
      "model.width (set by model.width=130) is 130, want a multiple of 2 * heads",
    ],
    [
      "more channels than a block has numbers",
      SMALLEST,
      ["model.latent_channels=64"],
      "data.codec.stride has its default, want [t, y, x] with 3 * y * x of at least model.latent_channels 64 (here 48)",
    ],
    [
      "a stride that is no power of two",
      SMALLEST,
      ["data.codec.stride=[3,4,4]"],
      "is [3,4,4], want powers of two [t, y, x], at most [4, 8, 8]",
    ],
    [
      "a picture smaller than a patch",
      SMALLEST,
      ["data.max_pixels=32"],
      "is 32, want at least the 64 pixels of one patch",
    ],
    [
      "a patch over several frames",
      SMALLEST,
      ["model.patch=[2,2,2]"],
      "want 1 as its first number, since a picture is one latent frame",
    ],
    ["not a number", SMALLEST, ["optimizer.lr=.nan"], "is NaN, want a number above 0"],
    [
      "a key written twice",
      `${SMALLEST}name: b\n`,
      [],
      "Cannot read job file a.yaml: line 6, column 1: Map keys must be unique, want plain YAML",
    ],
    ["YAML that does not close", "name: [\n", [], "Cannot read job file a.yaml: line 2, column 1"],
    ["a list", "[1, 2]", [], "found [1,2], want keys such as name, data and train"],
    ["an empty file", "", [], "data is missing, want its keys media, max_pixels"],
    [
      "a number of no use",
      `${SMALLEST}data: 3\n`.replace("data: { media: ./data/shapes }\n", ""),
      [],
      "data (line 5, column 7) is 3, want its keys media",
    ],
  ];
  for (const [name, yaml, overrides, message] of table) {
    it(`refuses ${name}`, () => {
      const found = refusal(yaml, ...overrides);
      assert.ok(found.includes(message), `found: ${found}\nwant:  ${message}`);
    });
  }

  it("tells every problem of a file in one line", () => {
    const found = refusal(SMALLEST.replace("600", "0").replace("name: shapes", "name: Big Name"));
    assert.match(found, /name \(line 1, column 7\) is "Big Name".*; train\.steps \(line 4/);
  });

  it("refuses a file whose aliases unfold without end", () => {
    const bomb = Array.from(
      { length: 12 },
      (_, i) =>
        `a${i}: &a${i} [${Array(9)
          .fill(i === 0 ? "x" : `*a${i - 1}`)
          .join(", ")}]`,
    ).join("\n");
    assert.match(refusal(bomb), /alias/i);
  });
});

describe("resolveJob()", () => {
  it("gives plain data the same checks and defaults as a file", () => {
    const plain = {
      name: "shapes",
      data: { media: "./data/shapes" },
      train: { steps: 600 },
      checkpoint: { uri: "file://./runs/shapes" },
    };
    assert.deepEqual(resolveJob(plain), load(SMALLEST));
    assert.throws(() => resolveJob({ ...plain, stpes: 1 }), {
      message: "Cannot use job: stpes is not a known key, did you mean train.steps",
    });
    assert.throws(() => resolveJob(null), { code: "JOB_INVALID" });
  });

  it("takes its own result again unchanged", () => {
    const job = load(SMALLEST, "layout.sp=2", "model.depth=3");
    assert.deepEqual(resolveJob(JSON.parse(JSON.stringify(job))), job);
  });
});

describe("absolutePaths()", () => {
  it("resolves relative paths against a folder and keeps absolute ones", () => {
    const job = absolutePaths(load(SMALLEST), "/home/me");
    assert.deepEqual(
      [job.data.media, job.checkpoint.uri],
      ["/home/me/data/shapes", "file:///home/me/runs/shapes"],
    );
    assert.deepEqual(absolutePaths(job, "/elsewhere"), job);
  });

  it("leaves s3:// as it is, with one name for each place", () => {
    for (const uri of ["s3://runs/shapes", "s3://runs/shapes/"]) {
      const job = load(SMALLEST, `checkpoint.uri=${uri}`);
      assert.equal(absolutePaths(job, "/home/me").checkpoint.uri, "s3://runs/shapes");
    }
    for (const uri of ["s3://", "s3://Runs/x", "s3://runs/../x", "gs://runs/x", "./runs"])
      assert.throws(() => load(SMALLEST, `checkpoint.uri=${uri}`), {
        code: "JOB_INVALID",
        message: /file:\/\/PATH or s3:\/\/BUCKET\/PREFIX/,
      });
  });
});

describe("docs/job-file.md", () => {
  it("lists every key of the schema with its default, and no other", async () => {
    const page = await readFile(join(REPOSITORY, "docs/job-file.md"), "utf8");
    const documented = [...page.matchAll(/^\| `([a-z_.]+)` \| (?:`([^|]*)`|([^|`]*)) \| .+ \|$/gm)].map(
      (row) => `${row[1]} = ${row[2] ?? row[3]}`,
    );
    const withLayout = load(`${SMALLEST}layout: {}\n`);
    const known = schemaKeys().map((key) => {
      const value = key
        .split(".")
        .reduce<unknown>(
          (at, part) => (at as Record<string, unknown>)[part],
          key.startsWith("layout.") ? withLayout : load(SMALLEST),
        );
      const required = ["name", "data.media", "train.steps", "checkpoint.uri"].includes(key);
      return `${key} = ${required ? "required" : value === undefined ? "preset" : JSON.stringify(value)}`;
    });
    assert.deepEqual(documented.sort(), known.sort());
  });

  it("says that keys are required which the schema requires", () => {
    for (const line of [
      "name: shapes\n",
      "data: { media: ./data/shapes }\n",
      "  steps: 600\n",
      "checkpoint: { uri: file://./runs/shapes }\n",
    ]) {
      refusal(SMALLEST.replace(line, ""));
    }
  });
});

describe("examples/", () => {
  it("holds only jobs that load", async () => {
    const files = (await readdir(join(REPOSITORY, "examples"))).filter((name) => name.endsWith(".yaml"));
    assert.ok(files.includes("shapes.yaml"));
    for (const file of files)
      loadJob(await readFile(join(REPOSITORY, "examples", file), "utf8"), [], { file });
  });
});
