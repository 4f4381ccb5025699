import { EmbeddedStore } from "../../../controller/store/embedded.js";

/** Child process: writes without end, telling its parent each key once it is durable. */
const store = await EmbeddedStore.open(process.argv[2]!);
for (let i = 0; ; i++) {
  const key = `key-${i}`;
  const outcome = await store.transact(
    [],
    [{ kind: "put", key, value: new TextEncoder().encode(String(i)) }],
  );
  if (outcome.kind === "applied") process.send!(key);
}
