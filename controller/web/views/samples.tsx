import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, api, type Job, type Preview } from "../api.js";
import { useKnown } from "../use_known.js";
import { ScrollBox } from "./scroll_box.js";

/** Steps side by side; more are further to the right of what scrolls. */
const SHOWN_MAX = 24;

/** What the model draws, step by step: one prompt side by side where each has a file of its own, else all on one sheet. */
export function Samples({ job }: { job: Job }) {
  const previews = usePreviews(job.id);
  const [prompt, setPrompt] = useState<number | null>(null);
  const [moves, setMoves] = useState(() => !matchMedia("(prefers-reduced-motion: reduce)").matches);
  const newest = previews.at(-1);
  if (newest === undefined) return null;
  const own = newest.prompts.map((_, i) => fileOf(newest, i)).some((name) => name !== null);
  const chosen = own ? (prompt ?? 0) : null;
  const shown = previews.filter((preview) => fileOf(preview, chosen) !== null).slice(-SHOWN_MAX);
  const hasClips = shown.some((preview) => isClip(fileOf(preview, chosen)!));
  return (
    <section class="card" aria-labelledby="samples-title">
      <div class="card-head">
        <h2 id="samples-title">Samples by step</h2>
        {hasClips && (
          <button type="button" class="quiet" onClick={() => setMoves(!moves)}>
            {moves ? "Pause" : "Play"}
          </button>
        )}
        {own && (
          <label class="prompt">
            <span class="visually-hidden">Prompt</span>
            <select value={chosen ?? 0} onChange={(event) => setPrompt(Number(event.currentTarget.value))}>
              {newest.prompts.map((text, i) => (
                <option key={`${i} ${text}`} value={i}>
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
              moves={moves}
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

const isClip = (file: string) => file.endsWith(".mp4");

interface Shown {
  job: string;
  step: number;
  file: string;
  text: string;
  moves: boolean;
}

/** Fetched with the token and shown from memory, since an image can show no token. What was there before stays, as what it is, until then. */
function Media({ job, step, file, text, moves }: Shown) {
  const [had, setHad] = useState<{ url: string; file: string; text: string } | null>(null);
  const [error, setError] = useState<string | null>(null);
  useEffect(() => {
    let isGone = false;
    api.previewFile(job, step, file).then(
      (blob) => {
        if (isGone) return;
        setHad({ url: URL.createObjectURL(blob), file, text });
        setError(null);
      },
      (cause: Error) => {
        if (isGone) return;
        setHad(null);
        setError(cause.message);
      },
    );
    return () => {
      isGone = true;
    };
  }, [job, step, file, text]);
  useEffect(() => () => URL.revokeObjectURL(had?.url ?? ""), [had]);
  if (had === null) return <div class="placeholder">{error}</div>;
  return isClip(had.file) ? (
    <Clip url={had.url} text={had.text} moves={moves} />
  ) : (
    <img src={had.url} alt={had.text} />
  );
}

/** A clip of a second, again and again while it is in sight; what would start and stop it alone would cover half of it. */
function Clip({ url, text, moves }: { url: string; text: string; moves: boolean }) {
  const video = useRef<HTMLVideoElement>(null);
  useEffect(() => {
    if (!moves) return;
    const clip = video.current!;
    const sight = new IntersectionObserver((entries) => {
      if (entries.at(-1)!.isIntersecting)
        clip.play().catch(() => {}); // it went out of sight before it began
      else clip.pause();
    });
    sight.observe(clip);
    return () => {
      sight.disconnect();
      clip.pause();
    };
  }, [moves, url]);
  return <video ref={video} src={url} aria-label={text} loop muted playsInline />;
}
