"""The required approvers: how many different people, and which."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from opsjobs.model import text_patterns
from opsjobs.model.api_model import ApiModel, Duration
from opsjobs.model.draft_error import fault
from opsjobs.model.target import Name

APPROVERS_MAX = 20
EXPIRES_SECONDS = 86_400.0
EXPIRES_SECONDS_MAX = 30 * 86_400.0

RoleName = Annotated[str, Field(pattern=text_patterns.ROLE)]


class Approvers(ApiModel):
    """The number of different people who have to approve; the requester is not one of them.

    If `roles` or `users` are named, only those count. All of them need approvals:decide anyway."""

    approvers: int = Field(default=1, ge=1, le=APPROVERS_MAX)
    roles: list[RoleName] = Field(default_factory=list, max_length=APPROVERS_MAX)
    users: list[Name] = Field(default_factory=list, max_length=100)

    @model_validator(mode="after")
    def _enough_of_them(self) -> Approvers:
        if self.users and not self.roles and len(set(self.users)) < self.approvers:
            words = (
                f"{self.approvers} are to approve, and {len(set(self.users))} may: name more "
                "users, or a role"
            )
            raise fault("too_few_approvers", words, "users")
        return self


class ApprovalPolicy(Approvers):
    """The field `policy.approval`: an execution starts only after approval.

    It is rejected if it is not approved within `expires` seconds."""

    expires: Annotated[Duration, Field(le=EXPIRES_SECONDS_MAX)] = EXPIRES_SECONDS
