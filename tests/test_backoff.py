"""Back-off: pauses double up to a limit, shortened by jitter, and start over after a success."""

from __future__ import annotations

from opsjobs.backoff import Backoff


def test_each_pause_of_a_backoff_is_twice_the_one_before_up_to_the_longest() -> None:
    backoff = Backoff(0.1, 5.0, jitter=0)
    assert [backoff.next() for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_jitter_shortens_a_pause_by_its_share_at_most() -> None:
    for jitter in (0.3, 0.5):
        pauses = [Backoff(1.0, 1.0, jitter=jitter).next() for _ in range(500)]
        assert 1 - jitter <= min(pauses) < max(pauses) <= 1
        assert max(pauses) - min(pauses) > jitter / 2, "they are spread"


def test_a_reset_starts_the_backoff_over() -> None:
    backoff = Backoff(1.0, 60.0, jitter=0)
    assert backoff.is_first
    backoff.next()
    assert (backoff.is_first, backoff.next()) == (False, 2.0)
    backoff.reset()
    assert (backoff.is_first, backoff.next()) == (True, 1.0)


def test_the_first_retry_of_an_immediate_backoff_has_no_pause() -> None:
    backoff = Backoff(0.2, 15.0, jitter=0, immediate=True)
    assert [backoff.next() for _ in range(4)] == [0.0, 0.2, 0.4, 0.8]
    backoff.reset()
    assert backoff.next() == 0.0


def test_a_backoff_that_goes_on_for_ever_stays_at_its_longest_pause() -> None:
    backoff = Backoff(0.1, 5.0, jitter=0)
    assert {backoff.next() for _ in range(5_000)} >= {0.1, 5.0}
    assert backoff.next() == 5.0
