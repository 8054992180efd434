"""Fields `can` and `cannot` of single objects, judged by the code of their requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request

from opsjobs.api.authorization import admit
from opsjobs.api.request import principal_of
from opsjobs.model.errors import Refusal


class Actions:
    """The fields `can` and `cannot` of an object with these labels.

    An action whose permission the caller does not hold at all is in neither of them. `noun`, `ref`,
    `sees`: as of `admit`.
    """

    def __init__(
        self, request: Request, noun: str, ref: object, labels: Mapping[str, str], *, sees: str
    ) -> None:
        self._request = request
        self._noun = noun
        self._ref = ref
        self._labels = labels
        self._sees = sees
        self._can: list[str] = []
        self._cannot: dict[str, Refusal] = {}

    def holds(self, action: str, *permissions: str) -> bool:
        """Return True if the caller holds these permissions for the object.

        A permission that it holds for other objects only is a reason in `cannot`.
        """
        principal = principal_of(self._request)
        if not all(principal.has_permission(one) for one in permissions):
            return False
        try:
            for one in permissions:
                admit(
                    self._request,
                    self._noun,
                    self._ref,
                    self._labels,
                    sees=self._sees,
                    permission=one,
                )
        except Refusal as refused:
            self._cannot[action] = refused
            return False
        return True

    def add(self, action: str, refusal: Refusal | None) -> None:
        """Add an action that the caller's permissions have; `refusal`: how it is refused now."""
        if refusal is None:
            self._can.append(action)
        else:
            self._cannot[action] = refusal

    def data(self) -> dict[str, Any]:
        """Return both fields."""
        return {
            "can": self._can,
            "cannot": {
                action: {"code": refused.code, "detail": refused.detail}
                for action, refused in self._cannot.items()
            },
        }
