import assert from "node:assert/strict";
import { after, test } from "node:test";
import * as grpc from "@grpc/grpc-js";
import { AgentServiceService, Hello } from "../../../gen/goku/v1/agent.pb.js";
import { NO_ACCESS } from "../../../security/client_access.js";
import { ControllerLink } from "../../../worker/agent/controller_link.js";

/** A controller that says hello to nobody: it names who leads instead. */
async function standby(onHello: () => string): Promise<string> {
  const server = new grpc.Server();
  server.addService(AgentServiceService, {
    session: (call: grpc.ServerDuplexStream<unknown, unknown>) =>
      call.once("data", () => {
        const error = { code: "NOT_LEADER", message: "another controller leads", operation: "" };
        const refused = { error, leader: onHello() };
        call.write({ term: 0n, commandId: 0n, message: { $case: "refused", value: refused } });
        call.end();
      }),
  });
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, bound) =>
      error ? reject(error) : resolve(bound),
    );
  });
  after(() => server.forceShutdown());
  return `127.0.0.1:${port}`;
}

test("ControllerLink: an agent goes where a standby says, not round in circles, and not beyond this machine without TLS", async () => {
  const tried: string[] = [];
  const seen = (name: string, leader: () => string) =>
    standby(() => {
      tried.push(name);
      return leader();
    });
  let a = "";
  const b = await seen("b", () => a);
  a = await seen("a", () => b);
  let done = () => {};
  const wholeRound = new Promise<void>((resolve) => {
    done = resolve;
  });
  const z = await seen("z", () => {
    if (tried.filter((name) => name === "z").length === 2) done();
    return "controller.example:7070";
  });
  const link = new ControllerLink({
    controllers: [a, z],
    access: NO_ACCESS,
    hello: () => Hello.fromPartial({ nodeId: "n" }),
    onWelcome: () => true,
    onCommand: () => {},
    onDown: () => {},
    ranks: () => 1,
  });
  link.start();
  await wholeRound;
  link.close();
  assert.deepEqual(tried, ["a", "b", "a", "b", "z", "a", "b", "a", "b", "z"]);
});
