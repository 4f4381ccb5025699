import type { Etcd3 } from "etcd3";
import type { EtcdServers } from "./etcd_servers.js";

/**
 * Makes etcd ask who one is: `root`, and `goku`, who may read and write below goku/.
 * @returns a client of root
 */
export async function withUsers(servers: EtcdServers): Promise<Etcd3> {
  // Passwords cost etcd time, and the client repeats what is late: a user would be added twice.
  const patient = { defaultCallOptions: () => ({ deadline: Date.now() + 60_000 }) };
  const open = servers.client(0, patient);
  const perm = {
    key: Buffer.from("goku/"),
    range_end: Buffer.from("goku0"),
    permType: "Readwrite",
  } as const;
  await open.auth.roleAdd({ name: "goku" });
  await open.auth.roleGrantPermission({ name: "goku", perm });
  for (const name of ["root", "goku"]) {
    await open.auth.userAdd({ name, password: `${name}-password` });
    await open.auth.userGrantRole({ user: name, role: name });
  }
  await open.auth.authEnable();
  return servers.client(0, { ...patient, auth: { username: "root", password: "root-password" } });
}
