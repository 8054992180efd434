"""Each rule finds its positive examples, and passes its negative ones."""

from __future__ import annotations

import pytest

from opsjobs.model.safety_verdict import SafetyVerdict
from opsjobs.safety import Context
from opsjobs.safety.check import check_text, severity
from opsjobs.safety.rulebook import RuleError, SafetyRule, bound, rulebook

RULE = """
- name: one
  severity: warn
  reason: It is one.
  any: [{command: one}]
  finds: [one]
  passes: [two]
"""


@pytest.mark.parametrize("rule", rulebook().rules, ids=lambda rule: rule.name)
def test_a_rule_holds_for_its_own_examples(rule: SafetyRule) -> None:
    missed = [e.text[:200] for e in rule.finds if rule.name not in _found(e.language, e.text)]
    wrong = [e.text[:200] for e in rule.passes if rule.name in _found(e.language, e.text)]
    assert (missed, wrong) == ([], [])


def _found(language: str, text: str) -> set[str]:
    return {finding.rule for finding in check_text(language, text)}


@pytest.mark.parametrize(
    ("was", "becomes", "words"),
    [
        ("severity: warn", "severity: bad", "rule one: 'bad' is not a severity"),
        ("severity: warn", "", "rule one: severity is missing"),
        ("reason: It is one.", "reason: no sentence", "rule one: its reason is a sentence"),
        ("finds: [one]", "finds: []", "rule one: finds is a list, and not empty"),
        ("passes: [two]", "passes: [{latin: x}]", "rule one: an example of passes"),
        ("{command: one}", "{commands: one}", "rule one: there is no commands in a rule"),
        ("{command: one}", "{command: [1]}", "rule one: \\[1\\] is neither a text"),
        ("{command: one}", "{path: '@nowhere'}", "rule one: @nowhere is not a set of paths.yaml"),
        ("{command: one}", "{argument: '('}", "rule one: missing \\)"),
        ("{command: one}", "{command: one, dialect: latin}", "rule one: 'latin' is not a dialect"),
        (
            "severity: warn",
            "severity: warn\n  stricter: {env>3: block}",
            "rule one: 'env>3' is not a condition",
        ),
        ("name: one", "name: One", "rule One: its name is words of small letters"),
        ("- name: one", "? [", "x.yaml is not YAML"),
        ("- name: one", "name: one\nx:", "x.yaml"),
    ],
)
def test_a_wrong_rule_is_told_by_its_name(was: str, becomes: str, words: str) -> None:
    with pytest.raises(RuleError, match=words):
        bound({"x.yaml": RULE.replace(was, becomes)})


def test_two_rules_of_one_name_are_told() -> None:
    with pytest.raises(RuleError, match="two rules are called one"):
        bound({"x.yaml": RULE, "y.yaml": RULE})


@pytest.mark.parametrize(
    ("when", "context"),
    [
        ("become", Context(become=True)),
        ("env=prod|live", Context(labels=frozenset({"env=live"}))),
        ("share>=0.5", Context(share_of_targets=0.5)),
        ("targets>=100", Context(targets=100)),
    ],
)
def test_a_rule_is_stricter_where_its_condition_holds(when: str, context: Context) -> None:
    from_data = bound(
        {"x.yaml": RULE.replace("severity: warn", f"severity: warn\n  stricter: {{{when}: block}}")}
    )
    (rule,) = from_data.rules
    assert severity(rule, Context()) is SafetyVerdict.WARN
    assert severity(rule, context) is SafetyVerdict.BLOCK
