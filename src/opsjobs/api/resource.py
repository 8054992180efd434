"""Routes of nouns that are listed, shown and deleted alike.

Creating and replacing differ from noun to noun, so each module writes those routes itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from opsjobs.api.http import page_of, render_page
from opsjobs.api.schemas.base import AnswerModel, PageModel
from opsjobs.api.schemas.responses import PAGED
from opsjobs.api.services import ServicesDep, services_of
from opsjobs.api.updates import Stored
from opsjobs.composition.services import Services
from opsjobs.store.paging import Listing, Page, PageRequest

Item = TypeVar("Item", bound=Stored)


class Store(Protocol[Item]):
    """Store of one noun. All but `list` raise NotFound."""

    async def get(self, ref: str) -> Item:
        """Return one of them, by id or uuid."""

    async def list(self, request: PageRequest) -> Page[Item]:
        """Return a page of them."""

    async def delete(self, ref: str) -> None:
        """Delete one of them."""


@dataclass(frozen=True, kw_only=True)
class Resource(Generic[Item]):
    """A noun with its addresses, permissions and schemas."""

    router: APIRouter
    path: str
    """Path of the list, such as `/target-groups`."""
    one: str
    """The noun with its article, for summaries."""
    many: str
    """Its plural, for summaries."""
    store: Callable[[Services], Store[Item]]
    listing: Listing
    reads: Any
    """Permission to list and show."""
    manages: Any
    """Permission to delete."""
    item_model: type[AnswerModel]
    page_model: type[PageModel]

    async def load(self, id: str, request: Request) -> Item:
        """Return the item in the path. Raises NotFound before the body is validated."""
        return await self.store(services_of(request)).get(id)

    def add_list(self, description: str) -> None:
        """Add GET of the list."""
        wanted = page_of(self.listing)

        @self.router.get(
            self.path,
            dependencies=[self.reads],
            summary=f"List {self.many}",
            description=description,
            response_model=self.page_model,
            responses=PAGED,
        )
        async def list_(
            request: Request, services: ServicesDep, page: PageRequest = wanted
        ) -> Response:
            return render_page(request, await self.store(services).list(page))

    def add_show(self, description: str) -> None:
        """Add GET of one."""

        @self.router.get(
            f"{self.path}/{{id}}",
            dependencies=[self.reads],
            summary=f"Get {self.one}",
            description=description,
            response_model=self.item_model,
        )
        async def show(id: str, services: ServicesDep) -> Response:
            return JSONResponse((await self.store(services).get(id)).data())

    def add_delete(
        self, description: str, *, check: Callable[[Request, Item], None] | None = None
    ) -> None:
        """Add DELETE of one. `check` raises if the caller may not delete it."""

        @self.router.delete(
            f"{self.path}/{{id}}",
            status_code=204,
            dependencies=[self.manages],
            summary=f"Delete {self.one}",
            description=description,
        )
        async def delete(id: str, request: Request, services: ServicesDep) -> Response:
            store = self.store(services)
            if check is not None:
                check(request, await store.get(id))
            await store.delete(id)
            return Response(status_code=204)
