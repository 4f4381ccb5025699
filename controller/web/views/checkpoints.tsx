import type { Checkpoint } from "../api.js";
import { ago, bytes, clock, duration, UNKNOWN, whole } from "../format.js";
import type { Story } from "../story.js";
import { useNow } from "../use_known.js";
import { ScrollBox } from "./scroll_box.js";

/** Every durable state: what it weighs, how old it is, whether it may be restored from, and what was read back of it since. */
export function Checkpoints({ story: { checkpoints } }: { story: Story }) {
  const now = useNow();
  return (
    <section class="card" aria-labelledby="checkpoints-title">
      <div class="card-head">
        <h2 id="checkpoints-title">Checkpoints</h2>
      </div>
      {checkpoints.length === 0 ? (
        <p class="nothing">Nothing is durable yet</p>
      ) : (
        <ScrollBox class="scrolls" name="List of checkpoints">
          <table>
            <thead>
              <tr>
                <th scope="col">Step</th>
                <th scope="col" class="number">
                  Size
                </th>
                <th scope="col" class="number seldom">
                  Written in
                </th>
                <th scope="col">Age</th>
                <th scope="col">State</th>
                <th scope="col">Verification</th>
              </tr>
            </thead>
            <tbody>
              {checkpoints.map((checkpoint, i) => (
                <CheckpointRow key={checkpoint.uri} checkpoint={checkpoint} newest={i === 0} now={now} />
              ))}
            </tbody>
          </table>
        </ScrollBox>
      )}
      {checkpoints.length > 0 && (
        <p class="muted">
          Committed: every file was there, with its size and digests. Verified: its writers have read it back
          from storage since, and each byte was as written. <code>gokuctl ckpt verify</code> reads any again
        </p>
      )}
    </section>
  );
}

function CheckpointRow({
  checkpoint,
  newest,
  now,
}: {
  checkpoint: Checkpoint;
  newest: boolean;
  now: number;
}) {
  const { step, generation, uri, seconds, unusable, committed_at } = checkpoint;
  return (
    <tr title={uri}>
      <td>
        {whole(step)} <span class="muted">gen {generation}</span>
      </td>
      <td class="number">{bytes(checkpoint.bytes)}</td>
      <td class="number seldom">{duration(seconds)}</td>
      <td>{ago(committed_at, now)}</td>
      <td>{unusable === null ? "committed" : <span class="bad-text">not used: {unusable}</span>}</td>
      <td>{readText(checkpoint, newest)}</td>
    </tr>
  );
}

/** An older one is not read any more: its writers have a newer one to read. */
function readText({ read, unusable }: Checkpoint, newest: boolean): string {
  if (unusable !== null) return UNKNOWN; // its state says what is wrong
  if (read === null) return "not read since";
  if (read.whole === read.of) return `verified ${clock(read.at)}`;
  return `${newest ? "being read: " : ""}${read.whole} of ${read.of} parts whole`;
}
