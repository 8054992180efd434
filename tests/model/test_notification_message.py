"""Messages of notifications: the built-in text, templates, and values that are only data."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from opsjobs.model.notification import (
    TEXT_CHARACTERS_MAX,
    NotificationEvent,
    NotificationRule,
    fill_template,
    one_line,
)
from opsjobs.model.notification_message import (
    NotificationFacts,
    TargetFailure,
    digest_entry,
    render,
    render_digest,
)

AT = datetime(2026, 11, 28, 21, 0, tzinfo=UTC)
FAILED = NotificationFacts(
    NotificationEvent.FAILED,
    AT,
    "backup",
    job_id=3,
    execution_id=512,
    number=12,
    status="partial",
    requested_by="ada",
    started_at=AT - timedelta(seconds=72),
    finished_at=AT,
    total=5,
    counts={"succeeded": 3, "failed": 1, "unreachable": 1},
    failures=[
        TargetFailure(
            "web-1", "10.0.0.5", "failed", "dump", "nonzero_exit", "exit code 1",
            "\x1b[31mtar: /srv: no space left\x1b[0m\r\n\nsecond\nthird\nfourth\n",
        ),
        TargetFailure("db-1", "db-1", "unreachable", None, "connection_refused", "refused"),
    ],
    failures_in_a_row=3,
    link="https://jobs.example.org/console/executions/512",
)  # fmt: skip


def rule(**fields: Any) -> NotificationRule:
    return NotificationRule.model_validate(
        {"channel": "email", "to": ["ada@example.org"], **fields}
    )


def test_the_built_in_text_says_what_where_why_and_what_to_do_next() -> None:
    made = render(FAILED, rule(), held=4, held_since=AT - timedelta(hours=1))
    assert made.subject == (
        "[opsjobs] backup #12 failed on 2 of 5 targets, for the 3rd time in a row"
    )
    assert made.text == (
        """\
backup #12 failed on 2 of 5 targets, for the 3rd time in a row.

Job:        backup
Execution:  512
Status:     partial
Targets:    3 succeeded, 1 failed, 1 unreachable
Started by: ada
Finished:   2026-11-28 21:00:00 UTC
Duration:   1m 12s
Link:       https://jobs.example.org/console/executions/512

Targets that did not succeed:
web-1 (10.0.0.5): failed in dump (nonzero_exit): exit code 1
    | tar: /srv: no space left
    | second
    | third
db-1: unreachable (connection_refused): refused

What to do next:
opsjobs executions show 512         the targets and their errors
opsjobs executions retry 512        run the failed targets again

4 notifications were held back by the quiet rules since 2026-11-28 20:00:00 UTC."""
    )


def test_programs_get_the_same_without_the_output_of_targets() -> None:
    data = render(FAILED, rule(), held=4).data
    assert data["event"] == "failed"
    assert data["execution_id"] == 512
    assert data["counts"] == {"succeeded": 3, "failed": 1, "unreachable": 1}
    assert data["held_back"] == 4
    assert data["failures"][0] == {
        "target": "web-1", "host": "10.0.0.5", "status": "failed", "action": "dump",
        "code": "nonzero_exit", "error": "exit code 1",
    }  # fmt: skip
    assert "tar:" not in str(data)


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        ({"failures_in_a_row": 1}, "backup #12 failed on 2 of 5 targets"),
        ({"failures_in_a_row": 11}, "backup #12 failed on 2 of 5 targets, for the 11th time in a row"),
        ({"status": "timeout", "failures_in_a_row": 1}, "backup #12 timed out on 2 of 5 targets"),
        ({"event": "recovered"}, "backup #12 is back to normal after 3 failures"),
        ({"event": "recovered", "failures_in_a_row": 1}, "backup #12 is back to normal after a failure"),
        ({"event": "completed"}, "backup #12 completed on 5 targets"),
        ({"event": "completed", "total": 1}, "backup #12 completed on 1 target"),
        ({"event": "late", "schedule_name": "nightly", "late_seconds": 725.3}, "backup #12 was launched 12m 5s late by the schedule nightly"),
        ({"event": "missed", "schedule_name": "nightly", "number": None}, "backup was not launched by the schedule nightly"),
        ({"event": "approval_needed"}, "backup #12 needs an approval"),
    ],
)  # fmt: skip
def test_each_event_has_its_subject(changes: dict[str, Any], subject: str) -> None:
    if "event" in changes:
        changes = {**changes, "event": NotificationEvent(changes["event"])}
    assert render(replace(FAILED, **changes), rule()).subject == f"[opsjobs] {subject}"


def test_a_template_takes_its_values_once() -> None:
    tricky = replace(FAILED, job_name="${link} ${failures}")
    made = render(
        tricky,
        rule(
            subject="${job.name}: ${targets.failed}/${targets.total}",
            text="$${event} $x ${next_steps}",
        ),
    )
    assert made.subject == "${link} ${failures}: 2/5"
    assert made.text.startswith("$failed $x opsjobs executions show 512")


def test_what_a_target_wrote_is_data() -> None:
    written = TargetFailure(
        "web-1", "web-1", "failed", "a", "nonzero_exit", "${link}\r\nBcc: x", "${job.name}\n"
    )
    made = render(replace(FAILED, failures=[written]), rule(text="${failures}"))
    assert made.text.splitlines()[:2] == [
        "web-1: failed in a (nonzero_exit): ${link} Bcc: x",
        "    | ${job.name}",
    ]


@pytest.mark.parametrize(
    "end", ["\r\n", "\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\u2029", "\x1b[2J"]
)
def test_a_subject_is_one_line_whatever_is_inserted(end: str) -> None:
    made = render(
        replace(FAILED, job_name=f"a{end}Bcc: ben@example.org"), rule(subject="x ${job.name}")
    )
    assert len(made.subject.splitlines()) == 1
    assert made.subject.isprintable()


def test_a_long_text_keeps_the_count_of_what_was_held_back() -> None:
    many = [replace(FAILED.failures[0], target="x" * 300, error="y" * 9_000)] * 300
    made = render(
        replace(FAILED, failures=many, counts={"failed": 300}, total=300, reason="z" * 90_000),
        rule(),
        held=7,
    )
    assert len(made.text) <= TEXT_CHARACTERS_MAX
    assert "and 290 more" in made.text
    assert made.text.endswith("7 notifications were held back by the quiet rules.")


def test_a_digest_lists_what_it_gathered_and_counts_the_rest() -> None:
    entries = [
        digest_entry(FAILED),
        digest_entry(replace(FAILED, event=NotificationEvent.RECOVERED)),
    ]
    made = render_digest(entries, rule(quiet={"digest": "1h"}), count=5, at=AT, held=1)
    assert made.subject == "[opsjobs] 5 notifications in 1h"
    assert made.text.splitlines() == [
        "5 notifications in 1h:",
        "",
        "2026-11-28 21:00:00 UTC  backup #12 failed on 2 of 5 targets, for the 3rd time in a row",
        "2026-11-28 21:00:00 UTC  backup #12 is back to normal after 3 failures",
        "and 3 more",
        "",
        "1 notification was held back by the quiet rules.",
    ]
    assert made.data["count"] == 5


def test_pieces_of_templates() -> None:
    assert fill_template("a ${x} b", {}) == "a  b"
    assert one_line("a" * 300) == "a" * 199 + "…"
