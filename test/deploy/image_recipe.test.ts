import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";

/** deploy/docker/Dockerfile read line by line, also for the images that no registry's base can be had for where tests run. */
interface Stage {
  name: string;
  base: string;
  lines: string[];
}

const TEXT = readFileSync("deploy/docker/Dockerfile", "utf8")
  .replaceAll("\\\n", " ")
  .split("\n")
  .filter((line) => line.trim() !== "" && !line.startsWith("#"));
const first = TEXT.findIndex((line) => line.startsWith("FROM "));
const BASES = new Map(
  TEXT.slice(0, first).flatMap((line) => {
    const [, name, value] = /^ARG (\w+)=(.+)$/.exec(line)!;
    return name!.endsWith("_IMAGE") ? [[name!, value!] as const] : [];
  }),
);
const STAGES: Stage[] = [];
for (const line of TEXT.slice(first)) {
  const from = /^FROM (\S+) AS (\S+)$/.exec(line);
  if (from !== null) STAGES.push({ base: from[1]!, name: from[2]!, lines: [] });
  else STAGES.at(-1)!.lines.push(line);
}
const stage = (name: string) => STAGES.find((one) => one.name === name)!;
const IMAGES = ["controller", "worker-cpu", "worker-cuda"];
/** The stage, and those that it begins as, the first of them first. */
const chain = (one: Stage): Stage[] => {
  const base = STAGES.find(({ name }) => name === one.base);
  return [...(base === undefined ? [] : chain(base)), one];
};
const copies = ({ lines }: Stage) =>
  lines
    .filter((line) => line.startsWith("COPY "))
    .map((line) => {
      const [, from = null, rest] = /^COPY (?:--from=(\S+) )?(.+)$/.exec(line)!;
      const paths = rest!.split(" ");
      return { from, sources: paths.slice(0, -1), target: paths.at(-1)! };
    });
const ALLOWED = readFileSync(".dockerignore", "utf8")
  .split("\n")
  .flatMap((line) => (line.startsWith("!") ? [line.slice(1)] : []));
const isGiven = (file: string) => ALLOWED.some((one) => file === one || file.startsWith(`${one}/`));

test("every base is an argument with an exact version and its bytes, and both of CUDA are of one version on one system", () => {
  for (const [name, base] of BASES)
    assert.match(base, /:\d+\.\d+\.\d+-[a-z0-9.-]+@sha256:[0-9a-f]{64}$/, name);
  for (const { name, base } of STAGES) {
    const argument = /^\$\{(\w+)\}$/.exec(base)?.[1];
    const isKnown = argument === undefined ? STAGES.some((one) => one.name === base) : BASES.has(argument);
    assert.ok(isKnown, `${name}: ${base}`);
  }
  const cuda = (name: string) => BASES.get(name)!.replace(/-(devel|runtime)-(.*)@.*/, " on $2");
  assert.equal(cuda("CUDA_BUILD_IMAGE"), cuda("CUDA_IMAGE"));
  assert.match(BASES.get("CUDA_IMAGE")!, /-runtime-/);
});

test("every file that is copied is there: in the repository and let through, or in the stage it comes from", () => {
  for (const [at, one] of STAGES.entries())
    for (const { from, sources } of copies(one))
      for (const source of sources.filter((path) => path !== ".")) {
        const told = `${one.name}: ${from ?? "the repository"} has no ${source}`;
        if (from === null) {
          assert.ok(existsSync(source) && isGiven(source), told);
          continue;
        }
        const before = STAGES.slice(0, at).find(({ name }) => name === from);
        assert.ok(before !== undefined, told);
        if (source.startsWith("/src/")) assert.ok(isMade(before, source.slice("/src/".length)), told);
        else assert.equal(source, "/usr/local/bin/node", told);
      }
});

/** Copied into a stage, or what its commands make. */
function isMade(one: Stage, file: string): boolean {
  const whole = chain(one);
  const runs = whole.flatMap(({ lines }) => lines.filter((line) => line.startsWith("RUN "))).join("\n");
  if (file.startsWith("node_modules")) return /npm ci/.test(runs);
  if (file === "dist") return /tsc -p tsconfig\.image\.json/.test(runs);
  const native = readFileSync("deploy/docker/native.sh", "utf8");
  if (file.startsWith("build/")) return /goku-native/.test(runs) && native.includes(file);
  const copied = whole.flatMap(copies).filter(({ from }) => from === null);
  return copied.some(({ sources }) => sources.includes(file) || (sources.includes(".") && isGiven(file)));
}

test("packages come by apt.sh alone, at one time for all of an image, and from npm by the lock file", () => {
  assert.match(TEXT.slice(0, first).join("\n"), /^ARG APT_SNAPSHOT=\d{8}T\d{6}Z$/m);
  for (const { name, lines } of STAGES) {
    const runs = lines.filter((line) => line.startsWith("RUN "));
    for (const run of runs) assert.doesNotMatch(run, /apt-get|curl|wget|npm i(nstall)?\b/, name);
    if (!runs.some((run) => run.includes("goku-apt"))) continue;
    assert.ok(lines.includes("ARG APT_SNAPSHOT"), name);
    assert.ok(lines.includes("COPY deploy/docker/apt.sh /usr/local/bin/goku-apt"), name);
    for (const run of runs.filter((text) => text.includes("goku-apt ")))
      assert.match(run, /sh \/usr\/local\/bin\/goku-apt "\$APT_SNAPSHOT" /, name);
  }
  assert.match(stage("packages").lines.join("\n"), /package-lock\.json[\s\S]*npm ci --ignore-scripts/);
});

test("the worker for GPUs is the one for CPUs on another base, its addon built on that base's system", () => {
  const installed = (name: string) =>
    /goku-apt "\$APT_SNAPSHOT" ([a-z0-9 +-]+)/.exec(stage(name).lines.join("\n"))?.[1];
  assert.equal(installed("native-cuda"), installed("native-cpu"));
  assert.equal(installed("worker-cuda"), installed("worker-cpu"));
  const [cpu, cuda] = ["worker-cpu", "worker-cuda"].map((name) => copies(stage(name)));
  const taken = (all: ReturnType<typeof copies>) =>
    all.flatMap(({ sources, target }) => sources.map((source) => `${source} ${target}`));
  const more = [
    "/usr/local/bin/node /usr/local/bin/node", // the other base has it
    "/src/build/cuda/Release/goku_cuda.node /opt/goku/build/cuda/Release/", // where it is looked for: worker/engine/load_native.ts
  ];
  assert.deepEqual(
    taken(cuda!).filter((one) => !more.includes(one)),
    taken(cpu!),
  );
  for (const one of more) assert.ok(taken(cuda!).includes(one), one);
  assert.deepEqual(
    [stage("native-cuda").base, stage("worker-cuda").base],
    ["CUDA_BUILD_IMAGE", "CUDA_IMAGE"].map((name) => `\${${name}}`),
  );
  const path = /LD_LIBRARY_PATH=(\S+)/.exec(stage("worker-cuda").lines.join("\n"))![1]!.split(":");
  assert.equal(path.at(-1), "/opt/goku/lib", "the driver's libraries come first");
});

test("images run as nobody, with tini in front, and build.sh makes all of them", () => {
  for (const name of IMAGES) {
    const { lines } = stage(name);
    assert.ok(lines.includes("USER 65532:65532"), name);
    assert.ok(lines.includes('ENTRYPOINT ["tini", "--", "gokuctl"]'), name);
    const after = lines.slice(lines.indexOf("USER 65532:65532"));
    assert.ok(!after.some((line) => /^(RUN|COPY) /.test(line)), `${name}: nothing is made after that`);
  }
  assert.ok(readFileSync("deploy/docker/build.sh", "utf8").includes(`targets=(${IMAGES.join(" ")})`));
});
