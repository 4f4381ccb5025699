import { useEffect, useRef, useState } from "preact/hooks";
import { api, type Job, type LogLine, type Rank } from "../api.js";
import { clock, duration, plain, UNKNOWN } from "../format.js";
import { jobHash } from "../route.js";
import { DrainButton } from "./node_buttons.js";
import { ScrollBox } from "./scroll_box.js";

const LOOK_MS = 1_000;

/** One rank: where it runs, what it does at this moment, how its time is spent, and its last lines. */
export function RankPanel({ job, rank }: { job: Job; rank: number }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const { detail, lines, error } = useRank(job.id, rank);
  useEffect(() => dialog.current?.showModal(), []);
  const close = () => {
    location.hash = jobHash(job.name);
  };
  return (
    <dialog ref={dialog} class="panel" aria-labelledby="rank-title" onClose={close}>
      <div class="card-head">
        <h2 id="rank-title">Rank {rank}</h2>
        <button type="button" class="quiet" onClick={() => dialog.current?.close()}>
          Close
        </button>
      </div>
      {error !== null && <p class="bad-text">{error}</p>}
      {detail !== null && <RankFields detail={detail} />}
      {detail?.progress?.times != null && <RankTimes times={detail.progress.times} />}
      <h3>Last lines</h3>
      <LogTail lines={lines} />
      {detail !== null && <DrainButton nodeId={detail.node_id} />}
    </dialog>
  );
}

function useRank(jobId: string, rank: number) {
  const [detail, setDetail] = useState<Rank | null>(null);
  const [lines, setLines] = useState<LogLine[] | null>(null);
  const [error, setError] = useState<string | null>(null);
  useEffect(() => {
    let isGone = false;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const look = async () => {
      try {
        const [found, told] = await Promise.all([api.rank(jobId, rank), api.logs(jobId, rank)]);
        if (isGone) return;
        setDetail(found);
        setLines(told);
        setError(null);
      } catch (cause) {
        if (!isGone) setError((cause as Error).message);
      }
      if (!isGone) timer = setTimeout(() => void look(), LOOK_MS);
    };
    void look();
    return () => {
      isGone = true;
      clearTimeout(timer);
    };
  }, [jobId, rank]);
  return { detail, lines, error };
}

function RankFields({ detail }: { detail: Rank }) {
  const { progress } = detail;
  return (
    <dl class="fields">
      <dt>health</dt>
      <dd>
        <i class={`key health-${detail.health}`} /> {detail.health}
      </dd>
      <dt>node</dt>
      <dd>
        {detail.node_id}
        <span class="muted">
          {" "}
          {detail.host} · {detail.device} · heard {duration(detail.silent_seconds)} ago
        </span>
      </dd>
      <dt>failure domain</dt>
      <dd>{detail.failure_domain}</dd>
      <dt>process</dt>
      <dd>{progress?.pid ?? UNKNOWN}</dd>
      <dt>step</dt>
      <dd>
        {progress?.step ?? UNKNOWN}
        {progress !== null && <span class="muted"> micro-step {progress.micro_step}</span>}
      </dd>
      <dt>operation</dt>
      <dd data-testid="operation">{operationText(progress)}</dd>
      <dt>unchanged for</dt>
      <dd>{progress === null ? UNKNOWN : duration(progress.unchanged_ms / 1000)}</dd>
      <dt>slowness</dt>
      <dd>
        {detail.slowness === null ? "not known yet" : `${detail.slowness.toFixed(2)} × the others' time`}
      </dd>
    </dl>
  );
}

function operationText(progress: Rank["progress"]): string {
  if (progress === null) return UNKNOWN;
  const { phase, layer, collective, group, in_flight: isIn } = progress;
  const where = layer >= 0 ? `${phase}, layer ${layer}` : phase;
  if (collective === null) return where;
  return `${where}; ${isIn ? "in" : "last was"} ${collective}${group === null ? "" : ` (${group})`}`;
}

function RankTimes({ times }: { times: NonNullable<NonNullable<Rank["progress"]>["times"]> }) {
  const parts = [
    { name: "forward", colour: "compute", seconds: times.forward_seconds },
    { name: "backward", colour: "backward", seconds: times.backward_seconds },
    { name: "optimizer", colour: "snapshot", seconds: times.optimizer_seconds },
    { name: "waiting for packs", colour: "data", seconds: times.data_seconds },
    { name: "waiting for ranks", colour: "communication", seconds: times.wait_seconds },
  ];
  const sum = parts.reduce((total, { seconds }) => total + seconds, 0);
  if (sum === 0) return null;
  return (
    <>
      <h3>Time in {times.steps} steps of this generation</h3>
      <div class="shares" aria-hidden="true">
        {parts.map(({ name, colour, seconds }) => (
          <i key={name} class={`key ${colour}`} style={{ width: `${(100 * seconds) / sum}%` }} />
        ))}
      </div>
      <ul class="keys">
        {parts.map(({ name, colour, seconds }) => (
          <li key={name}>
            <i class={`key ${colour}`} />
            {name} <b>{duration(seconds)}</b>
          </li>
        ))}
      </ul>
    </>
  );
}

/** Stays at the end as lines come, unless one has scrolled away from it. */
function LogTail({ lines }: { lines: LogLine[] | null }) {
  const box = useRef<HTMLElement>(null);
  const isAtEnd = useRef(true);
  useEffect(() => {
    if (isAtEnd.current && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines]);
  if (lines === null) return <p class="muted">Asking…</p>;
  if (lines.length === 0) return <p class="muted">It has written nothing since this controller leads</p>;
  return (
    <ScrollBox
      boxRef={box}
      class="log"
      name="Last lines of its log"
      onScroll={({ currentTarget: { scrollTop, scrollHeight, clientHeight } }) => {
        isAtEnd.current = scrollHeight - scrollTop - clientHeight < 8;
      }}
    >
      <pre>{lines.map(({ time, text }) => `${clock(time)}  ${plain(text)}`).join("\n")}</pre>
    </ScrollBox>
  );
}
