"""Circuits: the effect of outcomes, and who may try."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from opsjobs.model.circuit import (
    RIGHT_SECONDS,
    TRIPS_MAX,
    Ask,
    Circuit,
    CircuitKey,
    CircuitPolicy,
    CircuitState,
    Report,
    Right,
    change,
    describe_open,
)
from opsjobs.model.execution import OFFLINE, ErrorCode

KEY = CircuitKey("1", "7")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = CircuitPolicy(failures=3, pause_seconds=10, refused_pause_seconds=600)
REFUSED = ErrorCode.CONNECTION_REFUSED


def ask(login: str = "a", *, insist: bool = False) -> Ask:
    return Ask(KEY, login, uuid4(), insist)


def told(
    circuit: Circuit,
    code: ErrorCode | None,
    *,
    token: UUID | None = None,
    at: datetime = NOW,
    login: str = "a",
) -> Circuit:
    return circuit.after_report(Report(KEY, login, code, "no", token), at, POLICY)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_an_unknown_login_is_tried_by_one_at_a_time_and_a_proven_one_by_all() -> None:
    wish = ask()
    tried, right = Circuit("a").ask(wish, NOW)
    assert right is Right.YOURS
    assert tried.ask(ask(), NOW)[1] is Right.BUSY
    good = told(tried, None, token=wish.token)
    assert {good.ask(ask(), NOW)[1] for _ in range(3)} == {Right.FREE}


def test_who_dies_with_the_right_holds_it_for_a_moment_only() -> None:
    tried, _ = Circuit("a").ask(ask(), NOW)
    assert tried.ask(ask(), after(RIGHT_SECONDS - 1))[1] is Right.BUSY
    assert tried.ask(ask(), after(RIGHT_SECONDS))[1] is Right.YOURS


def test_a_refused_login_opens_at_once_and_is_tried_by_one_when_its_time_has_come() -> None:
    wish = ask()
    shut = told(Circuit("a").ask(wish, NOW)[0], ErrorCode.AUTH_FAILED, token=wish.token)
    assert (shut.state, shut.until, shut.proven) == (CircuitState.OPEN, after(600), False)
    assert shut.ask(ask(), after(599))[1] is Right.OPEN
    assert shut.ask(ask(insist=True), after(599))[1] is Right.OPEN
    again = ask()
    half, right = shut.ask(again, after(600))
    assert (half.state, right) == (CircuitState.HALF_OPEN, Right.YOURS)
    assert half.ask(ask(), after(601))[1] is Right.BUSY
    twice = told(half, ErrorCode.AUTH_FAILED, token=again.token, at=after(601))
    assert (twice.until, twice.since) == (after(601 + 1200), NOW)
    assert told(half, None, token=again.token).free


def test_a_proven_login_that_is_refused_is_proven_no_more() -> None:
    shut = told(Circuit("a", proven=True), ErrorCode.AUTH_FAILED)
    assert (shut.state, shut.proven) == (CircuitState.OPEN, False)
    # A failure of another worker that had trusted it, too, does not make it worse.
    assert told(shut, ErrorCode.AUTH_FAILED, at=after(1)).until == shut.until


@pytest.mark.parametrize("code", sorted(OFFLINE))
def test_connects_that_fail_open_it_after_some_in_a_row(code: ErrorCode) -> None:
    circuit = told(told(Circuit("a", proven=True), code), code)
    assert (circuit.state, circuit.failures, circuit.well) == (CircuitState.CLOSED, 2, False)
    assert told(circuit, None).well
    circuit = told(circuit, code)
    assert (circuit.state, circuit.until) == (CircuitState.OPEN, after(10))


def test_each_opening_in_a_row_is_twice_as_long_up_to_a_limit() -> None:
    circuit, at, pauses = Circuit("a"), NOW, []
    for _ in range(TRIPS_MAX + 6):
        wish = ask()
        circuit = told(circuit.ask(wish, at)[0], REFUSED, token=wish.token, at=at)
        if circuit.state is CircuitState.OPEN:
            assert circuit.until is not None
            pauses.append((circuit.until - at).total_seconds())
            at = circuit.until
    assert pauses[:6] == [10, 20, 40, 80, 160, 320]
    assert set(pauses[6:]) == {320}


def test_who_insists_is_let_through_where_contact_was_wanting_and_makes_it_no_worse() -> None:
    shut = told(told(told(Circuit("a", proven=True), REFUSED), REFUSED), REFUSED)
    wish = ask(insist=True)
    tried, right = shut.ask(wish, after(1))
    assert (right, tried.state) == (Right.YOURS, CircuitState.OPEN)
    assert tried.ask(ask(), after(1))[1] is Right.OPEN
    failed = told(tried, REFUSED, token=wish.token, at=after(2))
    assert (failed.until, failed.trips, failed.holder) == (shut.until, shut.trips, None)
    assert told(tried, None, token=wish.token).free


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.HOST_KEY,
        ErrorCode.CREDENTIAL_MISSING,
        ErrorCode.SAFETY_BLOCKED,
        ErrorCode.INTERNAL,
    ],
)
def test_what_says_nothing_of_the_login_leaves_it_as_it_was(code: ErrorCode) -> None:
    wish = ask()
    assert told(Circuit("a").ask(wish, NOW)[0], code, token=wish.token) == Circuit("a")
    shut = told(Circuit("a"), ErrorCode.AUTH_FAILED)
    half, _ = shut.ask(wish, after(600))
    spared = told(half, code, token=wish.token, at=after(601))
    assert spared == shut
    assert spared.ask(ask(), after(601))[1] is Right.YOURS


def test_another_login_is_another_circuit_and_late_news_of_the_old_one_are_none() -> None:
    shut = told(Circuit("a"), ErrorCode.AUTH_FAILED)
    fresh, right = shut.ask(ask("b"), NOW)
    assert (right, fresh.state, fresh.code) == (Right.YOURS, CircuitState.CLOSED, None)
    assert told(fresh, ErrorCode.AUTH_FAILED, login="a") == fresh


def test_a_right_that_lapsed_does_not_end_that_of_another() -> None:
    old, new = ask(), ask()
    tried, _ = Circuit("a").ask(old, NOW)
    taken, _ = tried.ask(new, after(RIGHT_SECONDS))
    assert told(taken, REFUSED, token=old.token).holder == new.token


def test_the_world_is_told_of_open_and_closed_only() -> None:
    shut = told(Circuit("a"), ErrorCode.AUTH_FAILED)
    half, _ = shut.ask(ask(), after(600))
    assert change(Circuit("a"), shut) is CircuitState.OPEN
    assert change(shut, half) is None
    assert change(half, Circuit("a", proven=True)) is CircuitState.CLOSED
    assert change(Circuit("a"), Circuit("a", proven=True)) is None


def test_the_words_say_why_until_when_and_what_to_do() -> None:
    said = describe_open("web-1", told(Circuit("a"), ErrorCode.AUTH_FAILED))
    assert "auth_failed" in said
    assert "2026-01-01 00:10:00Z" in said
    assert "opsjobs circuits reset web-1" in said
