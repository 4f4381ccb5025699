import { useState } from "preact/hooks";
import { setToken, token } from "../api.js";

/** The token stays in this tab's session storage, and goes with the tab. */
export function SignIn({ why }: { why: string }) {
  const [value, setValue] = useState("");
  const wasRefused = token() !== null;
  const submit = (event: Event) => {
    event.preventDefault();
    setToken(value.trim());
    location.reload();
  };
  return (
    <main class="sign-in">
      <form class="card" onSubmit={submit}>
        <h1>Goku Cluster</h1>
        <label for="token">Token</label>
        <input
          id="token"
          type="password"
          autocomplete="off"
          spellcheck={false}
          required
          value={value}
          aria-describedby="token-help"
          aria-invalid={wasRefused}
          onInput={(event) => setValue(event.currentTarget.value)}
        />
        <p id="token-help" class="muted">
          A line of the controller's token file, role read to look and operate to act. It is kept in this tab
          until you close it.
        </p>
        {wasRefused && (
          <p role="alert" class="bad-text">
            {why}
          </p>
        )}
        <button type="submit" class="primary">
          Sign in
        </button>
      </form>
    </main>
  );
}
