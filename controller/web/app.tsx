import { useEffect, useState } from "preact/hooks";
import type { Job } from "./api.js";
import { type Route, useRoute } from "./route.js";
import { nextTheme, theme } from "./theme.js";
import { useKnown, useLive } from "./use_known.js";
import { ConnectionBar } from "./views/connection_bar.js";
import { EmptyCluster } from "./views/empty_cluster.js";
import { JobView } from "./views/job_view.js";
import { JobsNav } from "./views/jobs_nav.js";
import { NodesView } from "./views/nodes_view.js";
import { SignIn } from "./views/sign_in.js";

export function App() {
  const known = useKnown();
  const live = useLive();
  const route = useRoute();
  const name = route.view === "job" ? route.name : (newestName(known.jobs) ?? null);
  const view = route.view === "nodes" ? "nodes" : "job";
  useEffect(() => {
    live.show(view === "nodes" ? { kind: "nodes" } : name === null ? null : { kind: "job", name });
  }, [live, view, name]);
  useEffect(() => {
    document.title = view === "nodes" ? "Nodes · Goku Cluster" : `${name ?? "No jobs"} · Goku Cluster`;
  }, [view, name]);
  if (known.connection.kind === "signIn") return <SignIn why={known.connection.why} />;
  return (
    <>
      <button type="button" class="skip" onClick={() => document.getElementById("main")?.focus()}>
        Skip to content
      </button>
      <header class="top">
        <a class="brand" href="#/">
          <Mark />
          Goku Cluster
        </a>
        <ConnectionBar connection={known.connection} asOf={known.asOf} me={known.me} />
        <ThemeButton />
      </header>
      <div class="body">
        <JobsNav jobs={known.jobs} chosen={view === "job" ? name : null} isNodes={view === "nodes"} />
        <main id="main" tabIndex={-1}>
          <Main route={route} name={name} jobs={known.jobs} />
        </main>
      </div>
    </>
  );
}

function Main({ route, name, jobs }: { route: Route; name: string | null; jobs: Job[] | null }) {
  if (route.view === "nodes") return <NodesView />;
  if (jobs === null) return <p class="loading">Asking the controller…</p>;
  if (name === null) return <EmptyCluster />;
  const runs = jobs.filter((job) => job.name === name);
  if (runs.length === 0)
    return (
      <div class="empty">
        <h1>No job named {name}</h1>
        <p>The controller does not know it any more, or never did. Choose another one from the list.</p>
      </div>
    );
  return <JobView key={name} name={name} runs={runs} rank={route.view === "job" ? route.rank : null} />;
}

/** The newest that is alive, or the newest of all. */
function newestName(jobs: Job[] | null): string | null {
  const found = jobs?.findLast(({ phase }) => phase === "RUNNING" || phase === "RECOVERING") ?? jobs?.at(-1);
  return found?.name ?? null;
}

function ThemeButton() {
  const [now, setNow] = useState(theme());
  return (
    <button
      type="button"
      class="quiet"
      onClick={() => setNow(nextTheme())}
      title="Light, dark, or as the system"
    >
      Theme: {now}
    </button>
  );
}

function Mark() {
  return (
    <svg viewBox="0 0 32 32" width="24" height="24" aria-hidden="true">
      <rect width="32" height="32" rx="7" class="mark-ground" />
      <rect x="6" y="6" width="8.5" height="8.5" rx="2" class="mark-a" />
      <rect x="17.5" y="6" width="8.5" height="8.5" rx="2" class="mark-b" />
      <rect x="6" y="17.5" width="8.5" height="8.5" rx="2" class="mark-b" />
      <rect x="17.5" y="17.5" width="8.5" height="8.5" rx="2" class="mark-c" />
    </svg>
  );
}
