export function EmptyCluster() {
  return (
    <div class="empty">
      <h1>No jobs yet</h1>
      <p>This controller is ready. Submit a job and it appears here by itself:</p>
      <pre>
        <code>{"gokuctl data shapes ./data/shapes\ngokuctl train examples/shapes.yaml"}</code>
      </pre>
      <p class="muted">To try everything on one machine, a kill and a resume included: make run</p>
    </div>
  );
}
