import assert from "node:assert/strict";
import { mkdtempSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, describe, it } from "node:test";
import { HeartbeatFile } from "../../../worker/program/heartbeat_file.js";
import { HeartbeatServer } from "../../../worker/program/heartbeat_server.js";
import type { Beat } from "../../../worker/program/read_beat.js";

const folder = mkdtempSync(path.join(tmpdir(), "goku-heartbeat-"));
after(() => rmSync(folder, { recursive: true, force: true }));

describe("HeartbeatFile", () => {
  /** Each `stop` is a look of its own, so that no test waits for the timer. */
  function watched() {
    const file = path.join(folder, "beat");
    writeFileSync(file, '{"step": 99}'); // of an earlier program
    const beats: Beat[] = [];
    const heartbeat = new HeartbeatFile(file, (beat) => beats.push(beat));
    return { file, beats, look: () => heartbeat.stop() };
  }

  it("takes every change once, an empty file or one that is touched included, and nothing of an earlier program", () => {
    const { file, beats, look } = watched();
    look();
    assert.deepEqual(beats, []);
    writeFileSync(file, "");
    look();
    look();
    assert.deepEqual(beats, [{ step: null, loss: null }]);
    utimesSync(file, 1, 1);
    look();
    assert.equal(beats.length, 2);
    writeFileSync(file, '{"step": 3, "loss": 0.5}');
    look();
    assert.deepEqual(beats[2], { step: 3, loss: 0.5 });
  });

  it("waits for the end of what is half written, also within one tick of the file system's clock", () => {
    const { file, beats, look } = watched();
    writeFileSync(file, '{"step"');
    utimesSync(file, 5, 5);
    look();
    assert.deepEqual(beats, []);
    writeFileSync(file, '{"step": 4}');
    utimesSync(file, 5, 5);
    look();
    assert.deepEqual(beats, [{ step: 4, loss: null }]);
  });

  it("finds a change by itself", async () => {
    const file = path.join(folder, "timed");
    const beat = await new Promise<Beat>((resolve) => {
      const heartbeat = new HeartbeatFile(file, (found) => {
        heartbeat.stop();
        resolve(found);
      });
      heartbeat.start();
      writeFileSync(file, '{"step": 7}');
    });
    assert.deepEqual(beat, { step: 7, loss: null });
  });
});

describe("HeartbeatServer", () => {
  it("takes heartbeats by POST at its own address alone, and says what is wrong with others", async () => {
    const beats: Beat[] = [];
    const server = new HeartbeatServer((beat) => beats.push(beat));
    const url = await server.listen();
    const post = (to: string, body: string) => fetch(to, { method: "POST", body });
    assert.match(url, /^http:\/\/127\.0\.0\.1:\d+\/[0-9a-f-]{36}$/);
    assert.equal((await post(url, '{"step": 5, "loss": 2}')).status, 204);
    assert.equal((await post(url, "")).status, 204);
    assert.equal((await post(new URL("/", url).href, '{"step": 6}')).status, 404);
    assert.equal((await fetch(url)).status, 405);
    const refused = await post(url, '{"step": "six"}');
    assert.equal(refused.status, 400);
    assert.match(
      await refused.text(),
      /^Cannot take a heartbeat: found .*, want an empty body or JSON such as/,
    );
    assert.equal((await post(url, `"${"x".repeat(70_000)}"`)).status, 400);
    server.close();
    assert.deepEqual(beats, [
      { step: 5, loss: 2 },
      { step: null, loss: null },
    ]);
    await assert.rejects(post(url, ""));
  });
});
