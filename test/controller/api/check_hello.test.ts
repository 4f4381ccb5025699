import assert from "node:assert/strict";
import { test } from "node:test";
import { checkHello } from "../../../controller/api/check_hello.js";
import { Hello } from "../../../gen/goku/v1/agent.pb.js";

const good = { nodeId: "node-a", host: "10.0.0.5", slots: 8, device: "cpu", version: "0.1.0" };

test("checkHello(): what an agent says of itself is checked before it gets into records, logs and other nodes", () => {
  const check = (change: object) => checkHello(Hello.fromPartial({ ...good, ...change }));
  for (const fine of [
    {},
    { host: "fd00::2" },
    { host: "a.b.svc" },
    { failureDomain: "rack/1" },
    { peerPort: 65_535 },
    { devices: [{ name: "NVIDIA A100-SXM4-80GB MIG 1g.10gb", memoryBytes: 10n ** 10n }] },
    { metricsUrl: "http://127.0.0.1:9464/metrics" },
    { metricsUrl: "https://[fd00::2]:9464/metrics" },
  ])
    assert.equal(check(fine), null, String(Object.keys(fine)));
  const cases: [object, RegExp][] = [
    [{ nodeId: "" }, /node_id/],
    [{ nodeId: "../up" }, /node_id/],
    [{ nodeId: "a\u001b[2J" }, /node_id/],
    [{ nodeId: "a".repeat(129) }, /node_id/],
    [{ host: "" }, /host/],
    [{ host: "a/b" }, /host/],
    [{ host: "unix:/run/x" }, /host/],
    [{ slots: 0 }, /slots is 0/],
    [{ slots: 4_000_000_000 }, /slots/],
    [{ failureDomain: "rack\n1" }, /failure_domain/],
    [{ device: "CPU!" }, /device/],
    [{ devices: [{ name: "a\u001b[2J", memoryBytes: 1n }] }, /devices/],
    [{ devices: [{ name: "NVIDIA H200", memoryBytes: 0n }] }, /devices/],
    [{ devices: Array(257).fill({ name: "g", memoryBytes: 1n }) }, /devices are 257/],
    [{ version: "" }, /version/],
    [{ peerPort: 70_000 }, /peer_port is 70000/],
    [{ metricsUrl: "http://10.0.0.5:9464/v1/jobs" }, /metrics_url/],
    [{ metricsUrl: "http://u:p@10.0.0.5:9464/metrics" }, /metrics_url/],
    [{ metricsUrl: "http://10.0.0.5:9464/metrics?x=1" }, /metrics_url/],
    [{ metricsUrl: "file:///metrics" }, /metrics_url/],
    // One that no URL parser takes would fail the list of all agents.
    [{ metricsUrl: "http://h:99999/metrics" }, /metrics_url/],
    [{ metricsUrl: "http://[:::]:9464/metrics" }, /metrics_url/],
    [{ metricsUrl: "http://1.2.3.999:9464/metrics" }, /metrics_url/],
  ];
  for (const [change, wanted] of cases)
    assert.match(check(change) ?? "", wanted, String(Object.keys(change)));
});
