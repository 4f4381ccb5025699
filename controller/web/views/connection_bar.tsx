import { type Me, setToken, token } from "../api.js";
import { clock } from "../format.js";
import type { Connection } from "../live.js";

/** Whether what is on the screen is of now, and who looks. */
export function ConnectionBar({ connection, me }: { connection: Connection; me: Me | null }) {
  return (
    <div class="connection">
      <span class={`pulse ${connection.kind}`} aria-hidden="true" />
      <span role="status">{textOf(connection)}</span>
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
