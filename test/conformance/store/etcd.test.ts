import { after, before } from "node:test";
import { EtcdStore } from "../../../controller/store/etcd.js";
import { ETCD_SKIP, EtcdServers } from "../../support/etcd_servers.js";
import { storeConformance } from "./suite.js";

/** The suite on etcd itself: each test on keys of its own. What a lease allows to pass, passes for real. */
function etcdConformance(name: string, members: number): void {
  let servers: EtcdServers;
  let opened = 0;
  before(async () => {
    if (ETCD_SKIP === false) servers = await EtcdServers.start({ members });
  });
  after(() => servers?.stop());

  storeConformance(
    name,
    async () => {
      const store = await EtcdStore.open(servers.settings({ prefix: `test-${++opened}/` }));
      const spaceAlarm = async (action: "Activate" | "Deactivate") => {
        await servers.client(0).maintenance.alarm({ action, alarm: "Nospace", memberID: "0" });
      };
      return {
        store,
        advance: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
        failWrites: (fail) => spaceAlarm(fail ? "Activate" : "Deactivate"),
        close: () => store.close(),
      };
    },
    { skip: ETCD_SKIP },
  );
}

etcdConformance("etcd, one member", 1);
etcdConformance("etcd, three members", 3);
