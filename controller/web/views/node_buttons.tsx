import { api } from "../api.js";
import { useKnown } from "../use_known.js";
import { type Question, useQuestion } from "./confirm.js";

export function DrainButton({ nodeId }: { nodeId: string }) {
  return (
    <NodeButton
      nodeId={nodeId}
      question={{
        title: `Drain ${nodeId}?`,
        text: "It gets no ranks until it is released. A job that trains there makes a checkpoint at its next step and goes on with the other nodes, or waits where they are too few.",
        act: "Drain",
        isHarsh: true,
        run: () => api.drain(nodeId),
        done: `${nodeId} is being drained`,
      }}
    />
  );
}

export function ReleaseButton({ nodeId }: { nodeId: string }) {
  return (
    <NodeButton
      nodeId={nodeId}
      question={{
        title: `Use ${nodeId} again?`,
        text: "Jobs may be given its slots from now on. Release it only once what was wrong with it is gone.",
        act: "Release",
        isHarsh: false,
        run: () => api.release(nodeId),
        done: `${nodeId} may be used again`,
      }}
    />
  );
}

/** Asks before it acts, and says what came of it; nothing for who may only look. */
function NodeButton({ nodeId, question }: { nodeId: string; question: Question }) {
  const { me } = useKnown();
  const { ask, shown, said } = useQuestion();
  if (me?.role !== "operate") return null;
  return (
    <span class="actions">
      <button type="button" class={question.isHarsh ? "harsh" : undefined} onClick={() => ask(question)}>
        {question.act} {nodeId}
      </button>
      <span role="status" class="muted">
        {said}
      </span>
      {shown}
    </span>
  );
}
