import http from "node:http";
import type { AddressInfo } from "node:net";
import { DCGM_METRICS } from "../../../deploy/grafana/src/gpu.js";

/**
 * Serves text in the format and with the labels of NVIDIA's DCGM exporter, for one GPU on each of two nodes: a machine that
 * is named as our node, and a pod, of another name than its machine. Until it is told to it answers 503.
 */
export class DcgmExporter {
  isThere = false;
  private readonly server: http.Server;

  constructor(machine: string, pod: string) {
    this.server = http.createServer((_request, response) => {
      if (!this.isThere) response.writeHead(503).end();
      else response.writeHead(200, { "content-type": "text/plain; version=0.0.4" }).end(text(machine, pod));
    });
  }

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.server.listen(0, "127.0.0.1", resolve));
    return `127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  close(): void {
    this.server.close();
    this.server.closeAllConnections();
  }
}

function text(machine: string, pod: string): string {
  const device = 'gpu="0",pci_bus_id="00000000:0F:00.0",device="nvidia0",modelName="NVIDIA H200"';
  const places = [
    `UUID="GPU-1",Hostname="${machine}"`,
    `UUID="GPU-2",Hostname="machine-7",container="agent",namespace="goku",pod="${pod}"`,
    `UUID="GPU-3",Hostname="of-somebody-else"`,
  ];
  return DCGM_METRICS.map((name) =>
    [
      `# TYPE ${name} gauge`,
      ...places.map((place, index) => `${name}{${device},${place}} ${index}`),
      "",
    ].join("\n"),
  ).join("");
}
