import type { Node } from "../api.js";
import { duration, plural, UNKNOWN } from "../format.js";
import { jobHash } from "../route.js";
import { useKnown } from "../use_known.js";
import { DrainButton, ReleaseButton } from "./node_buttons.js";
import { ScrollBox } from "./scroll_box.js";

const SHOWN_MAX = 200;

/** Every node: whether it is heard and used, what was found wrong with it, and what it serves. */
export function NodesView() {
  const { nodes } = useKnown();
  if (nodes === null) return <p class="loading">Asking the controller…</p>;
  const heard = nodes.filter(({ connected }) => connected).length;
  return (
    <article>
      <div class="job-header">
        <div>
          <h1>Nodes</h1>
          <p class="reason">
            {nodes.length === 0
              ? "No agent has come yet"
              : `${heard} of ${plural(nodes.length, "node")} connected`}
          </p>
        </div>
      </div>
      {nodes.length === 0 ? (
        <div class="empty">
          <p>Start an agent on each machine that is to train:</p>
          <pre>
            <code>gokuctl agent --controller HOST:7070</code>
          </pre>
        </div>
      ) : (
        <section class="card">
          <ScrollBox class="scrolls tall" name="List of nodes">
            <NodesTable nodes={nodes.slice(0, SHOWN_MAX)} />
          </ScrollBox>
          {nodes.length > SHOWN_MAX && (
            <p class="muted">and {nodes.length - SHOWN_MAX} more: gokuctl nodes lists all</p>
          )}
        </section>
      )}
    </article>
  );
}

function NodesTable({ nodes }: { nodes: Node[] }) {
  return (
    <table>
      <thead>
        <tr>
          <th scope="col">Node</th>
          <th scope="col">State</th>
          <th scope="col">Job</th>
          <th scope="col" class="number">
            Slots
          </th>
          <th scope="col">Device</th>
          <th scope="col">Domain</th>
          <th scope="col">Checks</th>
          <th scope="col" class="number">
            Heard
          </th>
          <th scope="col">
            <span class="visually-hidden">Actions</span>
          </th>
        </tr>
      </thead>
      <tbody>
        {nodes.map((node) => (
          <NodeRow key={node.node_id} node={node} />
        ))}
      </tbody>
    </table>
  );
}

function NodeRow({ node }: { node: Node }) {
  const { node_id, connected, unusable, job, slots, device, failure_domain, silent_seconds, quarantined } =
    node;
  const state = connected ? (unusable === null ? "good" : "warn") : "bad";
  return (
    <tr data-node={node_id}>
      <th scope="row">{node_id}</th>
      <td>
        <span class={`${state}-text`}>{connected ? "connected" : "not heard"}</span>
        {unusable !== null && <div class="muted wrap">{unusable}</div>}
      </td>
      <td>{job === null ? <span class="muted">free</span> : <a href={jobHash(job)}>{job}</a>}</td>
      <td class="number">{slots}</td>
      <td>{device || UNKNOWN}</td>
      <td>{failure_domain ?? UNKNOWN}</td>
      <td>{checksText(node)}</td>
      <td class="number">{duration(Math.round(silent_seconds))} ago</td>
      <td>{quarantined ? <ReleaseButton nodeId={node_id} /> : <DrainButton nodeId={node_id} />}</td>
    </tr>
  );
}

function checksText({ self_check, checks }: Node): string {
  if (self_check === null) return UNKNOWN;
  const bad = checks.filter(({ verdict }) => verdict !== "ok").map(({ name }) => name);
  return bad.length === 0 ? self_check : `${self_check}: ${bad.join(", ")}`;
}
