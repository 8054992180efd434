"""Point 4, beyond the matrix: what scopes mean in SQL, in launches, and in what is written."""

from __future__ import annotations

import random

from psycopg.types.json import Jsonb

from opsjobs.model.access import Reach, Scope, labels_of
from opsjobs.store.reaching import condition
from opsjobs.store.transaction import Database

WORDS = (
    "env=staging",
    "env=prod",
    "env in (staging,dev)",
    "web",
    "env",
    "team=web,env=staging",
    "role in (a,b),canary",
    "env=",
    "k=",
)
LABELS: tuple[dict[str, str], ...] = (
    {}, {"env": "staging"}, {"env": "prod"}, {"env": "dev", "web": ""}, {"env": ""}, {"web": "", "k": "v"}, {"k": ""},
    {"team": "web", "env": "staging"}, {"role": "b", "canary": "no"}, {"role": "c", "canary": ""}, {"ENV": "staging"},
)  # fmt: skip


async def test_point_04_a_reach_in_sql_is_a_reach_in_python(database: Database) -> None:
    dice = random.Random(4)
    for _ in range(60):
        reach = Reach(tuple(Scope.parse(dice.choice(WORDS)) for _ in range(dice.randint(0, 3))))
        text, values = condition(reach, "d.labels")
        given = {"all": [Jsonb(labels) for labels in LABELS], **values}
        rows = await database.fetch(
            f"select {text} as held from unnest(%(all)s::jsonb[]) with ordinality d(labels, n) order by n", given
        )
        assert [row["held"] for row in rows] == [reach.holds(labels) for labels in LABELS], reach
    assert condition(Reach((Scope.parse("env=prod"), Scope.parse(""))), "labels") == ("", {})
    assert condition(None, "labels") == ("", {})


async def test_point_04_the_labels_of_a_job_are_the_same_in_sql(database: Database) -> None:
    for tags in (["env=staging", "web"], [], ["env=a", "env=b"], ["=x", "a=b=c", "a="], ["ä=ö", "x y"]):
        row = await database.fetch_one("select opsjobs_labels(%s::text[]) as labels", [tags])
        assert row is not None
        assert row["labels"] == labels_of(tags)
