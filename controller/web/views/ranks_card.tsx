import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Job, Ranks } from "../api.js";
import { drawRanks, HEALTHS, type RankColouring, SHADES } from "../draw_ranks.js";
import { plural, whole } from "../format.js";
import { cellAt, type Grid, layGrid, neighbour, rankAt } from "../grid_geometry.js";
import { OVER } from "../live.js";
import { jobHash } from "../route.js";
import { onColours } from "../theme.js";

/** Ranks that are not well, as buttons; more would be a wall. */
const LISTED_MAX = 12;
const WORST_FIRST = ["failed", "lost", "slow"] as const;

/** Every rank as a cell, coloured by health or by how slow it is; a cell leads to what its rank does. */
export function RanksCard({ job, ranks }: { job: Job; ranks: Ranks | null }) {
  const [by, setBy] = useState<RankColouring>("health");
  const count = ranks?.node.length ?? 0;
  return (
    <section class="card" aria-labelledby="ranks-title">
      <div class="card-head">
        <h2 id="ranks-title">Ranks</h2>
        <fieldset class="switch">
          <legend class="visually-hidden">Colour by</legend>
          {(["health", "slowness"] as const).map((one) => (
            <button type="button" key={one} aria-pressed={by === one} onClick={() => setBy(one)}>
              {one === "health" ? "Health" : "Slowness"}
            </button>
          ))}
        </fieldset>
      </div>
      {ranks === null || count === 0 ? (
        <p class="nothing">{emptyText(job)}</p>
      ) : (
        <>
          <p class="muted">
            {plural(count, "rank")} on {plural(ranks.nodes.length, "node")}, generation {ranks.generation}
          </p>
          <RankGrid job={job} ranks={ranks} by={by} />
          <Legend ranks={ranks} by={by} />
          <Unwell job={job} ranks={ranks} />
        </>
      )}
      {by === "slowness" && <Stragglers job={job} />}
    </section>
  );
}

function emptyText({ phase, reason }: Job): string {
  return OVER.has(phase) ? "The run is over; it has no ranks any more" : `No ranks yet: ${reason}`;
}

function RankGrid({ job, ranks, by }: { job: Job; ranks: Ranks; by: RankColouring }) {
  const box = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const [width, setWidth] = useState(0);
  const [cursor, setCursor] = useState<number | null>(null);
  const [colours, setColours] = useState(0);
  const grid = useMemo(
    () => (width === 0 ? null : layGrid(ranks.node, ranks.nodes.length, width)),
    [ranks.node, ranks.nodes, width],
  );
  useEffect(() => onColours(() => setColours((times) => times + 1)), []);
  useEffect(() => {
    const sizes = new ResizeObserver(([entry]) => setWidth(Math.floor(entry!.contentRect.width)));
    sizes.observe(box.current!);
    return () => sizes.disconnect();
  }, []);
  useEffect(() => {
    if (grid !== null && canvas.current !== null) drawRanks(canvas.current, { ranks, grid, by });
  }, [ranks, grid, by, colours]);
  const open = (rank: number) => {
    location.hash = jobHash(job.name, rank);
  };
  const under = ({ offsetX, offsetY }: MouseEvent) => (grid === null ? null : rankAt(grid, offsetX, offsetY));
  const onKey = (event: KeyboardEvent) => {
    const isMove = /^(Arrow(Left|Right|Up|Down)|Home|End)$/.test(event.key);
    if (grid === null || !(isMove || event.key === "Enter")) return;
    event.preventDefault();
    if (!isMove) open(cursor ?? 0);
    else setCursor(cursor === null ? 0 : neighbour(grid, cursor, event.key));
  };
  return (
    <div ref={box} class="rank-grid">
      <div
        class="cells"
        role="application"
        aria-roledescription="grid of ranks"
        aria-label={`${summaryOf(ranks)}. Arrow keys move, Enter shows a rank`}
        // biome-ignore lint/a11y/noNoninteractiveTabindex: arrow keys move over thousands of cells, which elements cannot be
        tabIndex={0}
        onKeyDown={onKey}
        onMouseMove={(event) => setCursor(under(event))}
        onMouseLeave={() => setCursor(null)}
        onBlur={() => setCursor(null)}
        onClick={(event) => {
          const rank = under(event);
          if (rank !== null) open(rank);
        }}
      >
        <canvas ref={canvas} />
        {grid !== null && cursor !== null && cursor < ranks.node.length && (
          <Cursor grid={grid} rank={cursor} />
        )}
      </div>
      <p class="under" aria-live="polite">
        {cursor !== null && cursor < ranks.node.length ? rankText(ranks, cursor) : "\u00a0"}
      </p>
    </div>
  );
}

/** Moves over the cells, so that they need not be drawn anew. */
function Cursor({ grid, rank }: { grid: Grid; rank: number }) {
  const { x, y } = cellAt(grid, rank);
  const size = `${grid.cell + 4}px`;
  return <i class="cursor" style={{ left: `${x - 2}px`, top: `${y - 2}px`, width: size, height: size }} />;
}

function rankText(ranks: Ranks, rank: number): string {
  const slowness = ranks.slowness[rank] ?? null;
  const step = ranks.step[rank] ?? null;
  return [
    `rank ${rank} on ${ranks.nodes[ranks.node[rank]!]}`,
    ranks.health[rank]!,
    ...(step === null ? [] : [`step ${step}`]),
    ...(slowness === null ? [] : [`${slowness.toFixed(2)} × the others' time`]),
  ].join(", ");
}

function countsOf({ health }: Ranks): Map<string, number> {
  const counts = new Map<string, number>();
  for (const one of health) counts.set(one, (counts.get(one) ?? 0) + 1);
  return counts;
}

function summaryOf(ranks: Ranks): string {
  const counts = countsOf(ranks);
  const parts = HEALTHS.filter(({ health }) => counts.has(health));
  return parts.map(({ health, text }) => `${counts.get(health)} ${text}`).join(", ");
}

function Legend({ ranks, by }: { ranks: Ranks; by: RankColouring }) {
  const counts = countsOf(ranks);
  if (by === "slowness")
    return (
      <ul class="keys">
        {SHADES.map(({ name, text }) => (
          <li key={name}>
            <i class={`key ${name}`} />
            {text}
          </li>
        ))}
        <li>
          <i class="key heat-0" />
          not known
        </li>
      </ul>
    );
  return (
    <ul class="keys">
      {HEALTHS.map(({ health, text }) => (
        <li key={health} class={counts.has(health) ? "" : "muted"} data-health={health}>
          <i class={`key health-${health}`} />
          {text} <b>{whole(counts.get(health) ?? 0)}</b>
        </li>
      ))}
    </ul>
  );
}

function Unwell({ job, ranks }: { job: Job; ranks: Ranks }) {
  const unwell = WORST_FIRST.flatMap((health) => unwellOf(ranks, health));
  if (unwell.length === 0) return null;
  return (
    <ul class="unwell">
      {unwell.slice(0, LISTED_MAX).map(({ health, rank, text }) => (
        <li key={rank}>
          <a href={jobHash(job.name, rank)}>
            <i class={`key health-${health}`} />
            {text}
          </a>
        </li>
      ))}
      {unwell.length > LISTED_MAX && <li class="muted">and {whole(unwell.length - LISTED_MAX)} more</li>}
    </ul>
  );
}

/** Ranks of that health, those of one node together. */
function unwellOf(ranks: Ranks, health: (typeof WORST_FIRST)[number]) {
  const byNode = new Map<number, number[]>();
  for (const [rank, one] of ranks.health.entries()) {
    if (one !== health) continue;
    const node = ranks.node[rank]!;
    const same = byNode.get(node);
    if (same) same.push(rank);
    else byNode.set(node, [rank]);
  }
  return [...byNode].map(([node, of]) => {
    const who = of.length === 1 ? `rank ${of[0]}` : plural(of.length, "rank");
    return { health, rank: of[0]!, text: `${who} on ${ranks.nodes[node]}: ${health}` };
  });
}

function Stragglers({ job }: { job: Job }) {
  if (job.stragglers.length === 0)
    return <p class="muted">No rank is slower than the others by more than chance</p>;
  return (
    <ul class="plain">
      {job.stragglers.map(({ node_id, rank, evidence }) => (
        <li key={`${node_id} ${rank}`}>
          <strong>{rank === null ? node_id : `rank ${rank} on ${node_id}`}</strong>: {evidence}
        </li>
      ))}
    </ul>
  );
}
