import { useEffect, useState } from "preact/hooks";
import { ApiError, api, type Job, type Preview } from "../api.js";
import { useKnown } from "../use_known.js";
import { ScrollBox } from "./scroll_box.js";

/** Steps side by side; more are further to the right of what scrolls. */
const SHOWN_MAX = 24;

/** What the model draws, step by step: one prompt side by side where each has a file of its own, else all on one sheet. */
export function Samples({ job }: { job: Job }) {
  const previews = usePreviews(job.id);
  const [prompt, setPrompt] = useState<number | null>(null);
  const newest = previews.at(-1);
  if (newest === undefined) return null;
  const own = newest.prompts.map((_, i) => fileOf(newest, i)).some((name) => name !== null);
  const chosen = own ? (prompt ?? 0) : null;
  const shown = previews.filter((preview) => fileOf(preview, chosen) !== null).slice(-SHOWN_MAX);
  return (
    <section class="card" aria-labelledby="samples-title">
      <div class="card-head">
        <h2 id="samples-title">Samples by step</h2>
        {own && (
          <label>
            <span class="visually-hidden">Prompt</span>
            <select value={chosen ?? 0} onChange={(event) => setPrompt(Number(event.currentTarget.value))}>
              {newest.prompts.map((text, i) => (
                <option key={text} value={i}>
                  {text}
                </option>
              ))}
            </select>
          </label>
        )}
      </div>
      <ScrollBox class="samples" name="Samples, newest first">
        {shown.toReversed().map((preview) => (
          <figure key={`${preview.generation} ${preview.step}`}>
            <Media
              job={job.id}
              step={preview.step}
              file={fileOf(preview, chosen)!}
              text={textOf(preview, chosen)}
            />
            <figcaption>step {preview.step}</figcaption>
          </figure>
        ))}
      </ScrollBox>
    </section>
  );
}

/** A clip or picture of one prompt, or the sheet of all. Null: there is none. */
function fileOf({ files }: Preview, prompt: number | null): string | null {
  const pattern = prompt === null ? /-sheet\.png$/ : new RegExp(`-(clip|picture)-${prompt + 1}\\.(mp4|png)$`);
  return files.find(({ name }) => pattern.test(name))?.name ?? null;
}

function textOf({ prompts, step }: Preview, prompt: number | null): string {
  return `${prompt === null ? prompts.join(", ") : prompts[prompt]}, drawn at step ${step}`;
}

/** Jobs that can have none, such as those of a program of its own. */
const without = new Set<string>();

/** Asked anew when an event tells of a preview; a controller that has no such path shows none. */
function usePreviews(job: string): Preview[] {
  const [previews, setPreviews] = useState<Preview[]>([]);
  const { events } = useKnown();
  const told = events.findLast(({ kind }) => kind === "preview" || kind === "phase")?.id ?? 0;
  useEffect(() => {
    if (without.has(job)) return;
    let isGone = false;
    api.previews(job).then(
      (found) => {
        if (!isGone) setPreviews(found);
      },
      (error: unknown) => {
        if (error instanceof ApiError && error.code === "STATE_INVALID") without.add(job);
      },
    );
    return () => {
      isGone = true;
    };
  }, [job, told]);
  return previews;
}

/** Fetched with the token and shown from memory, since an image can show no token. */
function Media({ job, step, file, text }: { job: string; step: number; file: string; text: string }) {
  const [url, setUrl] = useState<string | null>(null);
  useEffect(() => {
    let made: string | null = null;
    let isGone = false;
    api.previewFile(job, step, file).then(
      (blob) => {
        if (isGone) return;
        made = URL.createObjectURL(blob);
        setUrl(made);
      },
      () => {},
    );
    return () => {
      isGone = true;
      if (made !== null) URL.revokeObjectURL(made);
    };
  }, [job, step, file]);
  if (url === null) return <div class="placeholder" />;
  if (file.endsWith(".mp4")) return <video src={url} aria-label={text} controls loop muted playsInline />;
  return <img src={url} alt={text} />;
}
