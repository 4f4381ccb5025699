import type { Hello } from "../../gen/goku/v1/agent.pb.js";
import { isFailureDomain, isNodeName } from "../../job/node_name.js";

/** Ranks of one node; far more than any machine has GPUs or cores. */
const SLOTS_MAX = 4_096;

/** More than any machine has. */
const DEVICES_MAX = 256;
const DEVICE_NAME = /^[A-Za-z0-9 ._()/+-]{1,64}$/;

/** Prometheus is sent there: an agent may name no other path than its own. */
const METRICS_URL = /^https?:\/\/([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):\d{1,5}\/metrics$/;

/** What is wrong with what an agent says it is; null: nothing. Its names go into records, logs and other nodes' messages. Pure. */
export function checkHello({
  nodeId,
  host,
  slots,
  device,
  devices,
  version,
  failureDomain,
  peerPort,
  metricsUrl,
}: Hello): string | null {
  const checks: [boolean, string][] = [
    [isNodeName(nodeId), "node_id is no node name, want letters, digits and ._- in between"],
    [isFailureDomain(failureDomain), "failure_domain, want letters, digits and ._/:-"],
    [/^[A-Za-z0-9._:-]{1,253}$/.test(host), "host, want a host name or an address"],
    [slots >= 1 && slots <= SLOTS_MAX, `slots is ${slots}, want 1 to ${SLOTS_MAX}`],
    [/^[a-z0-9_-]{1,32}$/.test(device), "device, want for example cpu"],
    [devices.length <= DEVICES_MAX, `devices are ${devices.length}, want at most ${DEVICES_MAX}`],
    [
      devices.every(({ name, memoryBytes }) => DEVICE_NAME.test(name) && memoryBytes > 0n),
      "devices, want a name of 1 to 64 letters, digits, blanks and ._()/+- and some memory for each",
    ],
    [/^[A-Za-z0-9.+-]{1,64}$/.test(version), "version, want for example 0.1.0"],
    [
      metricsUrl === "" || (METRICS_URL.test(metricsUrl) && URL.canParse(metricsUrl)),
      "metrics_url, want http://host:port/metrics or https",
    ],
    [peerPort <= 65_535, `peer_port is ${peerPort}, want at most 65535`],
  ];
  return checks.find(([isGood]) => !isGood)?.[1] ?? null;
}
