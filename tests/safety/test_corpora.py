"""Dangerous programs in disguise, of which none may pass, and harmless ones.

Hardly any of the harmless ones may be stopped.
"""

from __future__ import annotations

from opsjobs.model.safety_verdict import SafetyVerdict, worst
from opsjobs.safety import Context
from opsjobs.safety.check import check_text
from opsjobs.safety.policy import read
from safety.corpus import corpus

DANGEROUS_AT_LEAST = 200
HARMLESS_AT_LEAST = 300
FALSE_ALARMS_MAX = 0.02


def verdict(interpreter: str, text: str) -> SafetyVerdict:
    return worst(finding.severity for finding in check_text(interpreter, text))


def test_no_dangerous_program_passes() -> None:
    texts = corpus("dangerous")
    assert len(texts) >= DANGEROUS_AT_LEAST
    missed = [
        f"{said} instead of {expected} ({interpreter}): {text}"
        for expected, interpreter, text in texts
        if (said := verdict(interpreter, text)).rank < SafetyVerdict(expected).rank
    ]
    assert missed == [], "\n".join(["", *missed])


def test_hardly_any_harmless_program_is_held_up() -> None:
    texts = corpus("harmless")
    assert len(texts) >= HARMLESS_AT_LEAST
    alarms = [
        f"{sorted(finding.rule for finding in found)} ({interpreter}): {text}"
        for _, interpreter, text in texts
        if (found := check_text(interpreter, text))
    ]
    assert len(alarms) <= FALSE_ALARMS_MAX * len(texts), "\n".join(["", *alarms])


def test_what_is_merely_unknown_warns_and_asks_where_labels_or_a_policy_say_so() -> None:
    policies = read("policies: [{name: strict, labels: [tier=gold], unknown: needs_approval}]")
    strict = Context(labels=frozenset({"tier=gold"}))
    texts = corpus("unknown")
    for expected, interpreter, text in texts:
        found = check_text(interpreter, text)
        assert [finding.severity for finding in found if not finding.unknown] == [], text
        assert worst(finding.severity for finding in found) is SafetyVerdict(expected), text
        assert (
            worst(finding.severity for finding in policies.apply(found, strict))
            is SafetyVerdict.NEEDS_APPROVAL
        ), text
        production = check_text(interpreter, text, context=Context(labels=frozenset({"env=prod"})))
        assert worst(finding.severity for finding in production) is SafetyVerdict.NEEDS_APPROVAL, (
            text
        )
    assert len(texts) > len({interpreter for _, interpreter, _ in texts})
