"""Routes that nouns have alike: PUT and PATCH of one; list, show and delete.

PUT and PATCH share one endpoint, and so one validation, authorization, audit row and If-Match. PUT
has the whole object. PATCH is a JSON Merge Patch (RFC 7396) onto the GET response. In both,
read-only fields of GET are accepted if their values are unchanged. Creating and replacing differ
from noun to noun, so each module writes those routes itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from inspect import Parameter, Signature
from typing import Annotated, Any, Generic, Protocol, TypeVar

from fastapi import APIRouter, Body, Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError, WrapValidator
from starlette.responses import JSONResponse, Response

from opsjobs.api.http import page_of, render_page
from opsjobs.api.problems import pointer
from opsjobs.api.schemas.base import AnswerModel, PageModel
from opsjobs.api.schemas.responses import PAGED, Responses
from opsjobs.composition.services import Services, services_of
from opsjobs.model.api_model import ApiModel, snake_case
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.store.paging import Listing, Page, PageRequest

Draft = TypeVar("Draft", bound=ApiModel)
Json = dict[str, Any]
_SHOWN_CHARACTERS_MAX = 60
_PATCH_DESCRIPTION = (
    "A JSON Merge Patch (RFC 7396) onto the GET answer; "
    "the result is validated and stored as by PUT."
)


class Stored(Protocol):
    """Stored object that GET shows."""

    @property
    def updated_at(self) -> datetime:
        """Return the time of its last change."""

    def data(self) -> Json:
        """Return the body of GET."""


@dataclass(frozen=True, slots=True)
class Edit(Generic[Draft]):
    """Draft that replaces a stored object.

    `basis`: the `updated_at` of the version that it was made from, which must not have changed
    since. None for a PUT without the field of `_state`: it applies to any version.
    """

    draft: Draft
    basis: datetime | None = None


Adapt = Callable[[Any, Json, Json], Json]
"""(the stored object, the fields to merge onto, the body) -> the fields to merge onto."""
Hidden = Callable[[Request, Any, Json], Awaitable[Json]]
"""(request, stored object, body) -> fields that GET does not show and a PATCH keeps."""


def edit(
    model: type[Draft],
    known: Callable[..., Awaitable[Any]],
    *,
    volatile: Collection[str] = (),
    adapt: Adapt | None = None,
    hidden: Hidden | None = None,
) -> Any:
    """Return the dependency that reads the body as an `Edit` of this model.

    `known`: the dependency that finds the object, and refuses callers who may not see or change it.
    `volatile`: fields of GET that change on their own, so that an old value of them is ignored.
    """

    async def read(*, request: Request, stored: Stored, body: Any) -> Edit[Draft]:
        if not isinstance(body, dict):
            return Edit(_validated(model, body))
        shown = stored.data()
        written = _in_snake_case(model, shown, body)
        given = _check_read_only(model, shown, written, volatile)
        base = {name: value for name, value in shown.items() if name in model.model_fields}
        if adapt is not None:
            base = adapt(stored, base, given)
        if request.method != "PATCH":
            draft = _validated(model, _as_shown(shown, base, given))
            return Edit(draft, stored.updated_at if _state(shown) in written else None)
        if hidden is not None:
            base |= await hidden(request, stored, given)
        return Edit(
            _validated(model, merge_patch(base, _as_shown(shown, base, given))), stored.updated_at
        )

    # Described in OpenAPI as the model, but validated above.
    unvalidated: Any = Annotated[model, WrapValidator(lambda body, _: body)]
    read.__signature__ = Signature(  # type: ignore[attr-defined]  # FastAPI reads it
        [
            Parameter("request", Parameter.KEYWORD_ONLY, annotation=Request),
            Parameter("stored", Parameter.KEYWORD_ONLY, annotation=Annotated[Any, Depends(known)]),
            Parameter("body", Parameter.KEYWORD_ONLY, annotation=Annotated[unvalidated, Body()]),
        ]
    )
    return Depends(read)


def put_and_patch(
    router: APIRouter,
    path: str,
    *,
    dependencies: Sequence[Any],
    thing: str,
    response_model: type[AnswerModel],
    responses: Responses | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register an endpoint for both methods. `thing`: noun with article, for the summaries."""
    answers: Any = {"response_model": response_model, "responses": responses}

    def register(endpoint: Callable[..., Any]) -> Callable[..., Any]:
        router.put(path, dependencies=dependencies, summary=f"Replace {thing}", **answers)(endpoint)
        router.patch(
            path,
            dependencies=dependencies,
            summary=f"Change {thing}",
            description=_PATCH_DESCRIPTION,
            **answers,
        )(endpoint)
        return endpoint

    return register


def merge_patch(target: Any, patch: Any) -> Any:
    """Return the target with the patch applied as in RFC 7396.

    Null removes a field, an object is merged, everything else is replaced.

    >>> target = {"port": 22, "labels": {"env": "prod", "rack": "r1"}}
    >>> merge_patch(target, {"port": 2222, "labels": {"rack": None}})
    {'port': 2222, 'labels': {'env': 'prod'}}
    """
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def _in_snake_case(model: type[ApiModel], shown: Mapping[str, Any], body: Json) -> Json:
    """Return the body with camelCase field names in snake_case.

    A field that is given in both spellings is left for the model to refuse.
    """
    known = model.model_fields.keys() | shown.keys()
    spellings = {}
    for name in body:
        snake = name if name in known else snake_case(name)
        is_other_spelling = snake in known and snake not in body
        spellings[name] = snake if is_other_spelling else name
    return {spellings[name]: value for name, value in body.items()}


def _check_read_only(
    model: type[ApiModel], shown: Mapping[str, Any], body: Json, volatile: Collection[str]
) -> Json:
    """Return the body without the read-only fields of GET.

    Raises Invalid if the value of one of them differs from GET.
    """
    read_only = [
        name
        for name in body
        if (name in shown or name in volatile) and name not in model.model_fields
    ]
    ignored = {*volatile, "updated_at"} - {_state(shown)}
    wrong = [name for name in read_only if name not in ignored and body[name] != shown[name]]
    if wrong:
        raise _read_only(wrong, shown, body)
    return {name: value for name, value in body.items() if name not in read_only}


def _state(shown: Mapping[str, Any]) -> str:
    """Return the field that identifies the state that was read.

    If there is a version, that is it: other changes, such as a pause, also change `updated_at`.
    """
    return "version" if "version" in shown else "updated_at"


def _read_only(names: Sequence[str], shown: Mapping[str, Any], body: Json) -> Invalid:
    errors = [
        FieldError(
            pointer([name]),
            f"{name} is read-only: it is {_short(shown[name])}, not {_short(body[name])}. "
            "Leave it out, or read the object again",
            "read_only",
        )
        for name in names
    ]
    return Invalid("read_only", f"{errors[0].pointer}: {errors[0].detail}.", errors=errors)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else f"{text[:_SHOWN_CHARACTERS_MAX]}…"


def _as_shown(shown: Mapping[str, Any], base: Mapping[str, Any], body: Json) -> Json:
    """Return the body with values that only GET shows replaced by those of the draft.

    An example is a job's state `paused`, which a body cannot have.
    """
    return {
        name: base[name]
        if name in base and base[name] != shown.get(name) and value == shown.get(name)
        else value
        for name, value in body.items()
    }


def _validated(model: type[Draft], body: Any) -> Draft:
    try:
        return model.model_validate(body)
    except ValidationError as wrong:
        errors = [
            {**error, "loc": ("body", *error["loc"])} for error in wrong.errors(include_url=False)
        ]
        raise RequestValidationError(errors, body=body) from None


# --- list, show and delete


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
        async def list_(request: Request, page: PageRequest = wanted) -> Response:
            return render_page(request, await self.store(services_of(request)).list(page))

    def add_show(self, description: str) -> None:
        """Add GET of one."""

        @self.router.get(
            f"{self.path}/{{id}}",
            dependencies=[self.reads],
            summary=f"Get {self.one}",
            description=description,
            response_model=self.item_model,
        )
        async def show(id: str, request: Request) -> Response:
            return JSONResponse((await self.store(services_of(request)).get(id)).data())

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
        async def delete(id: str, request: Request) -> Response:
            store = self.store(services_of(request))
            if check is not None:
                check(request, await store.get(id))
            await store.delete(id)
            return Response(status_code=204)
