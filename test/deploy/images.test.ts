import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { readPageFiles } from "../../controller/shell/page_files.js";

const DOCKERFILE = readFileSync("deploy/docker/Dockerfile", "utf8");

function temporary(t: TestContext): string {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-images-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** The files that .dockerignore lets through, and no others. */
function copyContext(to: string): void {
  const lines = readFileSync(".dockerignore", "utf8").split("\n");
  for (const line of lines)
    if (line.startsWith("!")) cpSync(line.slice(1), path.join(to, line.slice(1)), { recursive: true });
}

/** What the stage runs last, command by command. */
function lastRun(stage: string): string[] {
  const text = DOCKERFILE.split(/^FROM /m).find((part) => part.split("\n", 1)[0]!.endsWith(` AS ${stage}`))!;
  const run = text.slice(text.lastIndexOf("\nRUN ") + 5).split(/(?<!\\)\n/, 1)[0]!;
  return run
    .replaceAll("\\\n", " ")
    .split("&&")
    .map((command) => command.trim());
}

test("the image's recipe, from the files that it is given, makes the web page and leaves its bundler out", (t) => {
  const folder = temporary(t);
  copyContext(folder);
  cpSync("gen", path.join(folder, "gen"), { recursive: true });
  symlinkSync(path.resolve("node_modules"), path.join(folder, "node_modules"));
  const commands = lastRun("javascript");
  const prune = commands.findIndex((command) => command.startsWith("npm prune"));
  assert.ok(prune > 0, "packages for development are there until the page is made");
  for (const command of commands.slice(0, prune)) {
    const done = spawnSync("sh", ["-c", command], { cwd: folder, encoding: "utf8" });
    assert.equal(done.status, 0, `${command}: ${done.stdout}${done.stderr}`);
  }
  const page = readPageFiles(path.join(folder, "dist/web"));
  assert.match(page.get("/")!.body.toString(), /<script type="module" src="\/assets\/page-/);
  assert.ok([...page.keys()].some((url) => url.endsWith(".css")));
  assert.ok(existsSync(path.join(folder, "dist/programs/gokuctl.js")));
  assert.deepEqual(readdirSync(path.join(folder, "dist")).sort(), ["programs", "web"]);
});

/** deploy/docker/apt.sh on a machine of that kind, in a folder, with an apt-get that does nothing. */
function apt(t: TestContext, release: string, snapshot = "20261101T000000Z") {
  const root = temporary(t);
  for (const folder of ["etc/apt/sources.list.d", "bin"])
    mkdirSync(path.join(root, folder), { recursive: true });
  writeFileSync(path.join(root, "etc/os-release"), release);
  for (const name of ["debian", "ubuntu"])
    writeFileSync(path.join(root, `etc/apt/sources.list.d/${name}.sources`), "");
  writeFileSync(path.join(root, "bin/apt-get"), "#!/bin/sh\n");
  chmodSync(path.join(root, "bin/apt-get"), 0o755);
  const text = readFileSync("deploy/docker/apt.sh", "utf8").replaceAll(
    /(?<=[ "])\/(?=etc\/|var\/)/g,
    `${root}/`,
  );
  writeFileSync(path.join(root, "apt.sh"), text);
  const done = spawnSync("sh", [path.join(root, "apt.sh"), snapshot, "tini"], {
    encoding: "utf8",
    env: { PATH: `${root}/bin:${process.env.PATH}` },
  });
  const list = path.join(root, "etc/apt/sources.list");
  const sources = existsSync(list) ? readFileSync(list, "utf8").trim().split("\n") : [];
  const own = (name: string) => existsSync(path.join(root, `etc/apt/sources.list.d/${name}.sources`));
  return { done, sources, own };
}

test("apt.sh takes Debian's packages from Debian's snapshots, and Ubuntu's from Ubuntu's", (t) => {
  const debian = apt(t, "ID=debian\nVERSION_CODENAME=bookworm\n");
  assert.equal(debian.done.status, 0, debian.done.stderr);
  assert.deepEqual(
    debian.sources.map((line) => line.split(" ").slice(2).join(" ")),
    [
      "http://snapshot.debian.org/archive/debian/20261101T000000Z bookworm main",
      "http://snapshot.debian.org/archive/debian/20261101T000000Z bookworm-updates main",
      "http://snapshot.debian.org/archive/debian-security/20261101T000000Z bookworm-security main",
    ],
  );
  assert.ok(!debian.own("debian"), "what it came with is not asked any more");
  const ubuntu = apt(t, "ID=ubuntu\nVERSION_CODENAME=noble\n");
  assert.equal(ubuntu.done.status, 0, ubuntu.done.stderr);
  assert.deepEqual(
    ubuntu.sources.map((line) => line.split(" ").slice(2).join(" ")),
    ["noble", "noble-updates", "noble-security"].map(
      (suite) => `http://snapshot.ubuntu.com/ubuntu/20261101T000000Z ${suite} main universe`,
    ),
  );
  assert.ok(!ubuntu.own("ubuntu"));
});

test("apt.sh says so where it knows no snapshots", (t) => {
  const { done, sources } = apt(t, "ID=alpine\n");
  assert.equal(done.status, 1);
  assert.match(done.stderr, /found alpine, want debian or ubuntu/);
  assert.deepEqual(sources, []);
});

test("apt.sh leaves the sources of the base as they are where no snapshot is wanted", (t) => {
  const { done, sources, own } = apt(t, "ID=debian\nVERSION_CODENAME=bookworm\n", "none");
  assert.equal(done.status, 0, done.stderr);
  assert.deepEqual(sources, []);
  assert.ok(own("debian"));
});

/** deploy/docker/build.sh for one image, with tools in front that write what they are asked. */
function build(t: TestContext, env: Record<string, string>) {
  const root = temporary(t);
  const told = path.join(root, "told");
  for (const name of ["docker", "podman", "buildah", "kind", "minikube", "k3d"]) {
    writeFileSync(path.join(root, name), `#!/bin/sh\necho "${name} $*" >>${told}\n`);
    chmodSync(path.join(root, name), 0o755);
  }
  const done = spawnSync("bash", ["deploy/docker/build.sh", "controller"], {
    encoding: "utf8",
    env: { PATH: `${root}:${process.env.PATH}`, ...env },
  });
  const asked = existsSync(told) ? readFileSync(told, "utf8").trim().split("\n") : [];
  return { done, asked: asked.map((line) => line.replaceAll(/\/\S+\.tar\b/g, "FILE")) };
}

test("build.sh pushes to a registry, and puts images onto the nodes of a cluster on this machine", (t) => {
  const { version } = JSON.parse(readFileSync("package.json", "utf8")) as { version: string };
  const image = `goku-controller:${version}`;
  for (const [env, then] of [
    [{ BUILDER: "docker" }, []],
    [{ BUILDER: "docker", LOAD: "kind" }, [`docker save -o FILE ${image}`, "kind load image-archive FILE"]],
    [{ BUILDER: "podman", LOAD: "minikube" }, [`podman save -o FILE ${image}`, "minikube image load FILE"]],
    [
      { BUILDER: "buildah", LOAD: "k3d" },
      [`buildah push --quiet ${image} docker-archive:FILE:${image}`, "k3d image import FILE"],
    ],
    [{ BUILDER: "docker", REGISTRY: "ghcr.io/me/", PUSH: "yes" }, [`docker push ghcr.io/me/${image}`]],
  ] as const) {
    const { done, asked } = build(t, env);
    assert.equal(done.status, 0, done.stderr);
    assert.match(asked[0]!, new RegExp(`^${env.BUILDER} build .*--target controller -t \\S*${image} `));
    assert.deepEqual(asked.slice(1), then);
  }
  for (const [env, said] of [
    [{ LOAD: "elsewhere" }, /LOAD is "elsewhere", want kind, minikube or k3d/],
    [{ PUSH: "yes" }, /REGISTRY=/],
  ] as const) {
    const { done, asked } = build(t, { BUILDER: "docker", ...env });
    assert.equal(done.status, 2);
    assert.match(done.stderr, said);
    assert.deepEqual(asked, [], "nothing is built first");
  }
});

/** deploy/docker/pin.sh on a copy of the Dockerfile, with a skopeo in front that answers by a line of shell. */
function pin(t: TestContext, answer: string, ...args: string[]) {
  const root = temporary(t);
  mkdirSync(path.join(root, "bin"));
  cpSync("deploy/docker", path.join(root, "deploy/docker"), { recursive: true });
  for (const [name, text] of [
    ["docker", "exit 1"],
    ["skopeo", answer],
  ] as const) {
    writeFileSync(path.join(root, "bin", name), `#!/bin/sh\n${text}\n`);
    chmodSync(path.join(root, "bin", name), 0o755);
  }
  const done = spawnSync("bash", [path.join(root, "deploy/docker/pin.sh"), ...args], {
    encoding: "utf8",
    env: { PATH: `${root}/bin:${process.env.PATH}` },
  });
  return { done, text: readFileSync(path.join(root, "deploy/docker/Dockerfile"), "utf8") };
}

test("pin.sh gives every base the digest of its tag, and packages their time, or changes nothing", (t) => {
  const of = (reference: string) => `sha256:${createHash("sha256").update(reference).digest("hex")}`;
  const { done, text } = pin(
    t,
    `printf 'sha256:%s' "$(printf %s "\${4#docker://}" | sha256sum | cut -d' ' -f1)"`,
    "20270101T000000Z",
  );
  assert.equal(done.status, 0, done.stderr);
  const bases = [...text.matchAll(/^ARG (\w+_IMAGE)=(\S+)@(\S+)$/gm)];
  assert.equal(bases.length, 3);
  for (const [, name, tagged, digest] of bases) {
    assert.equal(digest, of(tagged!), name);
    assert.ok(DOCKERFILE.includes(`ARG ${name}=${tagged}@`), "the tag stays");
  }
  assert.match(text, /^ARG APT_SNAPSHOT=20270101T000000Z$/m);
  const unpinned = (dockerfile: string) => dockerfile.replaceAll(/@sha256:\w+|(?<=APT_SNAPSHOT=)\w+Z$/gm, "");
  assert.equal(unpinned(text), unpinned(DOCKERFILE));
  for (const [answer, ...args] of [["exit 1"], ["echo unknown"], ["exit 0", "yesterday"]] as const) {
    const failed = pin(t, answer, ...args);
    assert.notEqual(failed.done.status, 0, answer);
    assert.equal(failed.text, DOCKERFILE);
  }
});
