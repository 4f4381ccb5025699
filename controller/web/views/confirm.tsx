import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

export interface Question {
  title: string;
  /** What follows when it is done. */
  text: ComponentChildren;
  /** On the button that does it. */
  act: string;
  isHarsh: boolean;
  run(): Promise<unknown>;
  /** Told when it was done. */
  done: string;
}

/** Asks before anything is done; says why where it could not be done. Closes with Escape, and gives the focus back. */
export function Confirm({ question, onEnd }: { question: Question; onEnd: (said: string | null) => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [error, setError] = useState<string | null>(null);
  const [isBusy, setBusy] = useState(false);
  useEffect(() => dialog.current?.showModal(), []);
  const act = () => {
    setBusy(true);
    question.run().then(
      () => onEnd(question.done),
      (cause: unknown) => {
        setBusy(false);
        setError(cause instanceof Error ? cause.message : String(cause));
      },
    );
  };
  return (
    <dialog ref={dialog} class="confirm" aria-labelledby="confirm-title" onClose={() => onEnd(null)}>
      <h2 id="confirm-title">{question.title}</h2>
      <p>{question.text}</p>
      {error !== null && (
        <p role="alert" class="bad-text">
          {error}
        </p>
      )}
      <div class="buttons">
        <button type="button" onClick={() => dialog.current?.close()}>
          Cancel
        </button>
        <button type="button" class={question.isHarsh ? "harsh" : "primary"} disabled={isBusy} onClick={act}>
          {question.act}
        </button>
      </div>
    </dialog>
  );
}

/** A question that is open, if any, and what came of the last one. */
export function useQuestion() {
  const [question, setQuestion] = useState<Question | null>(null);
  const [said, setSaid] = useState("");
  const shown = question !== null && (
    <Confirm
      question={question}
      onEnd={(outcome) => {
        setQuestion(null);
        if (outcome !== null) setSaid(outcome);
      }}
    />
  );
  return { ask: setQuestion, shown, said };
}
