import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, it } from "node:test";
import { absolutePaths } from "../../job/absolute_paths.js";
import { chooseLayout } from "../../job/choose_layout.js";
import { isCommandJob } from "../../job/command_job.js";
import { GokuError } from "../../job/errors.js";
import { modelConfig } from "../../job/job.js";
import { schemaKeys } from "../../job/job_keys.js";
import { loadAnyJob, loadJob, resolveAnyJob, resolveJob } from "../../job/load_job.js";
import { REPOSITORY } from "./repository.js";

const SMALLEST = `name: shapes
data: { media: ./data/shapes }
train:
  steps: 600
checkpoint: { uri: file://./runs/shapes }
`;

const PROGRAM = `name: ddp
trainer: { command: [python3, train.py] }
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
      "a roll-back behind the oldest checkpoint that is kept",
      `${SMALLEST}recovery: { spike: roll_back, roll_back_steps: 202 }\n`,
      [],
      "recovery.roll_back_steps (line 6, column 48) is 202, want at most 201, behind which no checkpoint may be left",
    ],
    [
      "a default of it that reaches too far",
      SMALLEST,
      ["recovery.bad_step=roll_back", "checkpoint.keep_last=1"],
      "recovery.roll_back_steps has its default, want at most 1, behind which no checkpoint may be left",
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
      "previews of nothing",
      `${SMALLEST}sample: { every_steps: 200 }\n`,
      [],
      "sample.prompts has its default, want at least one prompt, since sample.every_steps asks for previews",
    ],
    [
      "previews of a model that a prompt alone does not move",
      `${SMALLEST}sample: { every_steps: 200, prompts: [a] }\n`,
      ["model.reference_frame=true"],
      "sample.every_steps (line 6, column 24) is 200, want 0, since the model needs a reference frame, which no prompt has",
    ],
    [
      "a prompt that is a book",
      `${SMALLEST}sample: { prompts: [${"a".repeat(501)}] }\n`,
      [],
      `sample.prompts.0 (line 6, column 21) is "${"a".repeat(56)}..., want a prompt of at most 500 characters`,
    ],
    [
      "more prompts than a job carries along",
      SMALLEST,
      [`sample.prompts=[${Array.from({ length: 65 }, () => "a").join(",")}]`],
      "want a list of at most 64 prompts",
    ],
    [
      "a preview far beyond what the model is trained on",
      `${SMALLEST}sample: { size: [2048, 2048] }\n`,
      [],
      "sample.size (line 6, column 17) is [2048,2048], want at most 16 times 1024 pixels (data.max_pixels)",
    ],
    [
      "more frames than any clip has",
      SMALLEST,
      ["sample.frames=1000"],
      "want at most 16 times 9 frames (data.max_frames)",
    ],
    [
      "a size of one number",
      `${SMALLEST}sample: { size: [32] }\n`,
      [],
      "sample.size (line 6, column 17) is [32], want a list of 2 whole numbers [width, height]",
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

describe("a job with a program of its own", () => {
  const loadProgram = (yaml: string, ...overrides: string[]) =>
    loadAnyJob(yaml, overrides, { file: "a.yaml" });
  const message = (run: () => unknown): string => {
    try {
      run();
    } catch (error) {
      assert.ok(error instanceof GokuError && error.code === "JOB_INVALID", String(error));
      return error.message;
    }
    return assert.fail("the job was accepted");
  };

  it("needs a name and a command, and has the other defaults", () => {
    assert.deepEqual(loadProgram(PROGRAM), {
      name: "ddp",
      trainer: {
        command: ["python3", "train.py"],
        env: {},
        cwd: ".",
        heartbeat: "optional",
        stop_grace_seconds: 30,
      },
      device: "auto",
      layout: "auto",
      recovery: { max_attempts: 5, stall_seconds: 300, node_grace_seconds: 60, spares: 0 },
    });
  });

  it("takes overrides, and numbers as values of variables", () => {
    const job = loadProgram(PROGRAM, "layout.dp_shard=4", "trainer.env={OMP_NUM_THREADS: 2, DEBUG: true}");
    assert.ok(isCommandJob(job));
    assert.deepEqual(job.layout, { dp_replicate: 1, dp_shard: 4, sp: 1 });
    assert.deepEqual(job.trainer.env, { OMP_NUM_THREADS: "2", DEBUG: "true" });
  });

  it("takes its own result again unchanged, as the controller and agents do", () => {
    const job = loadProgram(PROGRAM, "trainer.env={A: 1}");
    assert.deepEqual(resolveAnyJob(JSON.parse(JSON.stringify(job))), job);
  });

  it("says of each section about our model that it has no place there", () => {
    const refused = message(() => loadProgram(`${PROGRAM}train: { steps: 5 }\nmodel: {}\n`));
    assert.match(
      refused,
      /^Cannot use job file a\.yaml: train \(line 3, column 1\) has no place beside trainer, whose program decides that itself: leave it out; model \(line 4, column 1\) has no place/,
    );
    assert.match(
      message(() => loadProgram(PROGRAM, "checkpoint.uri=file:///runs")),
      /checkpoint.* has no place/,
    );
    assert.match(
      message(() => loadProgram(PROGRAM, "recovery.bad_step=stop")),
      /^.*recovery\.bad_step .* has no place/,
    );
  });

  it("names what is wrong with the trainer", () => {
    const cases: [string, RegExp][] = [
      ["name: a\ntrainer: {}\n", /trainer\.command is missing, want a list of a program and its arguments/],
      ["name: a\ntrainer: { command: train.py }\n", /trainer\.command .* is "train.py", want a list/],
      ["name: a\ntrainer: { command: [] }\n", /trainer\.command .* is \[\], want a list/],
      ["name: a\ntrainer: { command: [a], env: { RANK: 1 } }\n", /trainer\.env .* holds "RANK", want names/],
      ["name: a\ntrainer: { command: [a], env: { GOKU_JOB: x } }\n", /holds "GOKU_JOB", want names/],
      ["name: a\ntrainer: { command: [a], env: { 'a b': x } }\n", /holds "a b", want names/],
      ["name: a\ntrainer: { command: [a], heartbeat: always }\n", /want one of optional, required/],
      ["name: a\ntrainer: { command: [a], nproc_per_node: 4 }\n", /did you mean layout\.dp_shard/],
    ];
    for (const [yaml, wanted] of cases)
      assert.match(
        message(() => loadProgram(yaml)),
        wanted,
      );
  });

  it("is no job for whatever works on our model", () => {
    assert.match(refusal(PROGRAM), /ddp runs a program of its own \(trainer\.command\)/);
  });

  it("gets an absolute folder", () => {
    const job = absolutePaths(loadProgram(PROGRAM), "/home/me");
    assert.ok(isCommandJob(job));
    assert.equal(job.trainer.cwd, "/home/me");
  });

  it("is given every slot when its layout is auto", () => {
    const { layout, reason } = chooseLayout({ slots: [2, 3], job: loadProgram(PROGRAM) });
    assert.deepEqual(layout, { dp_replicate: 1, dp_shard: 5, sp: 1 });
    assert.equal(reason, "auto chose 5 ranks: one for each free slot");
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
    const withTrainer = loadAnyJob(PROGRAM, [], { file: "a.yaml" });
    const known = schemaKeys().map((key) => {
      const job = key.startsWith("layout.") ? withLayout : key.startsWith("trainer.") ? withTrainer : null;
      const value = key
        .split(".")
        .reduce<unknown>((at, part) => (at as Record<string, unknown>)[part], job ?? load(SMALLEST));
      const required = ["name", "data.media", "train.steps", "checkpoint.uri", "trainer.command"].includes(
        key,
      );
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
      loadAnyJob(await readFile(join(REPOSITORY, "examples", file), "utf8"), [], { file });
  });
});
