import { type AsOf, type Me, setToken, token } from "../api.js";
import { clock } from "../format.js";
import type { Connection } from "../live.js";

/** Whether what is on the screen is of now, and who looks. */
export function ConnectionBar({
  connection,
  asOf,
  me,
}: {
  connection: Connection;
  asOf: AsOf | null;
  me: Me | null;
}) {
  const isOld = connection.kind === "live" && asOf !== null;
  return (
    <div class="connection">
      <span class={`pulse ${isOld ? "memory" : connection.kind}`} aria-hidden="true" />
      <span role="status">{isOld ? memoryText(asOf) : textOf(connection)}</span>
      {connection.kind === "standby" && (
        <button type="button" class="quiet" onClick={() => location.assign("/")}>
          Go to the leader
        </button>
      )}
      {me !== null && me.via !== "loopback" && (
        <span class="who">
          {me.name} ({me.role})
        </span>
      )}
      {token() !== null && (
        <button type="button" class="quiet" onClick={signOut}>
          Sign out
        </button>
      )}
    </div>
  );
}

function signOut(): void {
  setToken(null);
  location.reload();
}

/** As `gokuctl` says it. */
function memoryText({ at, storeSilentSince }: AsOf): string {
  const why =
    storeSilentSince === null
      ? "the controller does not lead at present"
      : `the controller has not reached its store since ${clock(storeSilentSince)}`;
  return `From memory, as of ${clock(at)}: ${why}; training goes on, changes wait`;
}

function textOf(connection: Connection): string {
  switch (connection.kind) {
    case "live":
      return "Live";
    case "connecting":
      return "Connecting…";
    case "standby":
      return "This controller stands by; another one leads";
    case "down":
      return `Reconnecting; shown is what was known at ${clock(new Date(connection.since).toISOString())}`;
    case "signIn":
      return "Signed out";
  }
}
