"""Fields `can` and `cannot` of single objects, judged by the code of their requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastapi import Request

from opsjobs.api.authorization import admit, check_permission
from opsjobs.api.request import principal_of
from opsjobs.model.errors import Refusal
from opsjobs.model.identity import Identity

FIELDS = ("can", "cannot")


class Actions:
    """The fields `can` and `cannot` of an object with these labels.

    An action whose permission the caller does not hold at all is in neither of them. `noun`, `ref`,
    `sees`, `launcher`: as of `admit`. `labels`: None if such objects have none, so that a
    permission within a scope is not enough.
    """

    def __init__(
        self,
        request: Request,
        noun: str,
        ref: object,
        labels: Mapping[str, str] | None,
        *,
        sees: str,
        launcher: Identity | None = None,
    ) -> None:
        self._request = request
        self._noun = noun
        self._ref = ref
        self._labels = labels
        self._sees = sees
        self._launcher = launcher
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
                self._admit(one)
        except Refusal as refused:
            self._cannot[action] = refused
            return False
        return True

    def _admit(self, permission: str) -> None:
        if self._labels is None:
            return check_permission(self._request, permission)
        return admit(
            self._request,
            self._noun,
            self._ref,
            self._labels,
            sees=self._sees,
            permission=permission,
            launcher=self._launcher,
        )

    def allow(self, action: str, *permissions: str) -> None:
        """Add an action that nothing but the caller's permissions can refuse now."""
        if self.holds(action, *permissions):
            self.add(action, None)

    @contextmanager
    def checking(self, action: str) -> Iterator[None]:
        """Add an action that the caller's permissions have; what the block raises refuses it."""
        try:
            yield
        except Refusal as refused:
            self.add(action, refused)
        else:
            self.add(action, None)

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
