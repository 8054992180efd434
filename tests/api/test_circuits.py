"""/circuits over HTTP."""

from __future__ import annotations

from api.kit import ApiClient, api_client, problem
from opsjobs.model.circuit import CircuitKey, Report
from opsjobs.model.execution import ErrorCode
from opsjobs.store.transaction import Database


async def refused(ada: ApiClient, *names: str) -> None:
    """Create these targets and report a refused login for each."""
    for number, name in enumerate(names, start=1):
        await ada.http.post("/targets", json={"name": name, "host": f"10.0.0.{number}"})
        report = Report(
            CircuitKey(str(number), ""),
            "a",
            ErrorCode.AUTH_FAILED,
            f"{name} refused the login of deploy.",
        )
        await ada.services.circuits.report([report])


async def test_circuits_are_listed_with_error_and_end(database: Database) -> None:
    async with api_client(database) as ada:
        await refused(ada, "web-1", "web-2")
        viewer = await ada.token_of("viewer")
        items = (await ada.http.get("/circuits?sort=target", headers=viewer)).json()["items"]
        assert [(c["target"]["name"], c["state"], c["error"]["code"]) for c in items] == [
            ("web-1", "open", "auth_failed"),
            ("web-2", "open", "auth_failed"),
        ]
        assert items[0]["error"]["message"] == "web-1 refused the login of deploy."
        assert items[0]["since"] < items[0]["until"]
        one = (await ada.http.get("/circuits?target=web-2&code=auth_failed&state=open")).json()[
            "items"
        ]
        assert [c["target"]["id"] for c in one] == ["2"]
        problem(await ada.http.get("/circuits?color=red"), 422, "invalid_query")


async def test_a_circuit_reset_closes_those_of_one_target_and_is_idempotent(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        await refused(ada, "web-1", "web-2")
        operator, manager = await ada.token_of("operator"), await ada.token_of("manager")
        problem(await ada.http.post("/circuits/1/reset", headers=operator), 403, "forbidden")
        told = (await ada.http.post("/circuits/1/reset", headers=manager)).json()
        assert [(c["target"]["name"], c["state"]) for c in told["items"]] == [("web-1", "closed")]
        assert (await ada.http.post("/circuits/1/reset")).json() == {"items": []}
        assert [c["target"]["name"] for c in (await ada.http.get("/circuits")).json()["items"]] == [
            "web-2"
        ]
        problem(await ada.http.post("/circuits/9/reset"), 404, "target_not_found")
