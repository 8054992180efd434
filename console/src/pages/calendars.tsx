/** Calendars: when not? */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { Calendar } from "../api/types.ts";
import { CalendarForm } from "../calendars/form.tsx";
import { windowWords } from "../calendars/words.ts";
import { Confirm } from "../parts/dialog.tsx";
import { Empty } from "../parts/empty.tsx";
import { Panel } from "../parts/panel.tsx";
import { Status } from "../parts/status.tsx";
import { Text } from "../parts/text.tsx";
import { Time } from "../parts/time.tsx";
import { toast } from "../parts/toast.tsx";
import { Loaded } from "../parts/trouble.tsx";
import { useListing } from "../state/listing.ts";
import { useResource } from "../state/resource.ts";
import { mayDoEverywhere } from "../state/rights.ts";
import "../style/calendars.css";

const SECONDS = 60;

export default function Calendars() {
  const list = useListing(
    (cursor, signal) => ask("GET /calendars", { query: { cursor, limit: 100 }, signal }),
    [],
  );
  const [adding, setAdding] = useState(false);
  const [changed, setChanged] = useState<Calendar | null>(null);
  const [deleted, setDeleted] = useState<Calendar | null>(null);
  const close = () => {
    setAdding(false);
    setChanged(null);
    void list.restart();
  };
  const may = mayDoEverywhere("schedules:manage");
  return (
    <div class="stack">
      <div class="head">
        <h1>Calendars</h1>
        <div class="actions">
          {may && (
            <button type="button" class="button" onClick={() => setAdding(true)}>
              New calendar …
            </button>
          )}
        </div>
      </div>
      <Loaded resource={list} what="calendars">
        {({ items, next }) => (
          <>
            {items.length === 0 && (
              <Empty why="There are no calendars yet. A calendar closes times for the schedules that name it, such as a freeze before Christmas." />
            )}
            {items.map((calendar) => (
              <CalendarPanel
                key={calendar.id}
                calendar={calendar}
                onChange={may ? () => setChanged(calendar) : null}
                onDelete={may ? () => setDeleted(calendar) : null}
              />
            ))}
            {next && (
              <button type="button" class="button" onClick={list.more}>
                More calendars
              </button>
            )}
          </>
        )}
      </Loaded>
      {(adding || changed) && <CalendarForm calendar={changed} onClose={close} />}
      {deleted && (
        <Confirm
          title={`Delete ${deleted.name}?`}
          verb="Delete"
          danger
          onClose={() => setDeleted(null)}
          onConfirm={async () => {
            await ask("DELETE /calendars/{id}", { path: { id: String(deleted.id) } });
            toast(`Deleted: ${deleted.name}`);
            await list.restart();
          }}
        >
          <p>A calendar that a schedule names cannot be deleted.</p>
        </Confirm>
      )}
    </div>
  );
}

interface CalendarPanelProps {
  calendar: Calendar;
  onChange: (() => void) | null;
  onDelete: (() => void) | null;
}

function CalendarPanel({ calendar, onChange, onDelete }: CalendarPanelProps) {
  const check = useResource(
    (signal) => ask("GET /calendars/{id}/check", { path: { id: String(calendar.id) }, signal }),
    [calendar.id, calendar.updated_at],
    SECONDS,
  );
  return (
    <Panel
      title={<Text of={calendar.name} />}
      actions={
        onDelete && (
          <>
            <button
              type="button"
              class="button small"
              aria-label={`Change ${calendar.name}`}
              onClick={onChange ?? undefined}
            >
              Change …
            </button>
            <button
              type="button"
              class="button small danger"
              aria-label={`Delete ${calendar.name}`}
              onClick={onDelete}
            >
              Delete …
            </button>
          </>
        )
      }
    >
      <div class="form">
        {calendar.description && (
          <p>
            <Text of={calendar.description} />
          </p>
        )}
        <Loaded resource={check}>
          {(now) => (
            <p class="row">
              <Status
                state={now.open ? "active" : "paused"}
                label={now.open ? "Open now" : "Closed now"}
              />
              {now.until && (
                <span class="dim">
                  until <Time at={now.until} />
                </span>
              )}
              {now.reason && <Text of={now.reason} />}
            </p>
          )}
        </Loaded>
        <p class="dim">
          {calendar.kind === "blackout" ? "Closed" : "Open only"} at these times,{" "}
          {calendar.timezone}:
        </p>
        <ul class="windows">
          {calendar.windows.map((window, index) => (
            <li key={index}>
              {window.name && (
                <b>
                  <Text of={window.name} />{" "}
                </b>
              )}
              {windowWords(window)}
            </li>
          ))}
        </ul>
      </div>
    </Panel>
  );
}
