"""HTTP client of the commands.

Responses become values, refusals become CommandFailed with their exit code, streams become events.
"""

from __future__ import annotations

import ipaddress
import json
import re
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2

from opsjobs import __version__
from opsjobs.cli.endpoint import ServiceEndpoint, StoredLogin, TokenStore, find_endpoint
from opsjobs.cli.errors import CommandFailed, get_refusal_exit_code, translate_refusal
from opsjobs.cli.event_stream import LOST, Event, Parser, RetryLater, StreamRetry, is_new
from opsjobs.settings import load_client

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0
SILENCE_SECONDS = 45.0  # a stream sends a heartbeat every 15 s
SENDS_MAX = 3
PATCHES_MAX = 5
PAGE_ITEMS = 200
ERRORS_SHOWN = 50

Json = dict[str, Any]


class RequestRefused(CommandFailed):
    """A refusal by the service: HTTP `status`, problem `code`, JSON Pointers of its errors."""

    def __init__(
        self, message: str, status: int, code: str, pointers: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message, get_refusal_exit_code(status, code))
        self.status = status
        self.code = code
        self.pointers = pointers

    def reworded(self, message: str) -> RequestRefused:
        """Return the refusal with another message."""
        return RequestRefused(message, self.status, self.code, self.pointers)


class Client:
    """A connection to the API: idempotency keys, cursors, problem documents."""

    def __init__(self, endpoint: ServiceEndpoint, logins: TokenStore | None = None) -> None:
        self.endpoint = endpoint
        self._login = None if logins is None else _LoginAuth(endpoint.url, logins)
        self._base = urlsplit(endpoint.url).path.rstrip("/")
        headers = {"user-agent": f"opsjobs-cli/{__version__}", "accept": "application/json"}
        if endpoint.token is not None:
            headers["authorization"] = f"Bearer {endpoint.token.reveal()}"
        # A proxy from the environment cannot reach loopback.
        self._http = httpx2.Client(
            base_url=endpoint.url,
            headers=headers,
            auth=self._login,
            timeout=httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            trust_env=not _is_loopback(endpoint.url),
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """Return the response to a GET; parameters that are None are omitted."""
        return self._send("GET", path, query=query)

    def post(self, path: str, body: Json | None = None, **query: Any) -> Any:
        """Return the response to a POST. An Idempotency-Key makes it safe to repeat."""
        key = {"idempotency-key": str(uuid.uuid4())}
        return self._send("POST", path, query=query, body={} if body is None else body, headers=key)

    def once(self, path: str, body: Json) -> Any:
        """Return the response to a POST that must not be repeated.

        If the response is lost, the outcome is unknown.
        """
        try:
            answer = self._http.post(path, json=body)
        except httpx2.TransportError as error:
            raise self._connection_failed(error) from error
        self._raise_for_status(answer)
        return _decode(answer.content)

    def send(self, path: str, pieces: Iterator[bytes], **query: Any) -> Any:
        """Return the response to a POST of a stream of bytes.

        It is sent once: the bytes cannot be read a second time.
        """
        headers = {"content-type": "application/octet-stream"}
        try:
            answer = self._http.post(path, params=query, content=pieces, headers=headers)
        except httpx2.TransportError as error:
            raise self._connection_failed(error) from error
        self._raise_for_status(answer)
        return _decode(answer.content)

    def put(self, path: str, body: Json, *, etag: str = "*") -> Any:
        """Return the response to a PUT of the whole resource."""
        return self._send("PUT", path, body=body, headers={"if-match": etag})

    def patch(self, path: str, body: Json) -> Any:
        """Return the response to a PATCH; repeat it after a concurrent change."""
        for attempt in range(1, PATCHES_MAX + 1):
            try:
                return self._send("PATCH", path, body=body, headers={"if-match": "*"})
            except RequestRefused as refused:
                if refused.code != "stale_version" or attempt == PATCHES_MAX:
                    raise
        raise AssertionError("the loop above returns or raises")

    def delete(self, path: str) -> None:
        """Send a DELETE."""
        self._send("DELETE", path, headers={"if-match": "*"})

    def items(self, path: str, *, limit: int, **query: Any) -> tuple[list[Json], bool]:
        """Return at most `limit` items of a list (0: all), and whether there are more.

        Fetches as many pages as needed.
        """
        found: list[Json] = []
        cursor: str | None = None
        while True:
            page_items = PAGE_ITEMS if limit == 0 else min(PAGE_ITEMS, limit - len(found))
            page = self.get(path, limit=page_items, cursor=cursor, **query)
            found += page["items"]
            cursor = page.get("next")
            if cursor is None or (limit and len(found) >= limit):
                return found, cursor is not None

    def by_name(self, noun: str, ref: str, *, command: str | None = None) -> Json:
        """Return the job, target or credential with this id, uuid or name.

        `command`: the commands' name of the noun, if it differs. Raises RequestRefused (404) if
        there is none.
        """
        path = f"/{noun}s"
        if is_id(ref) and (found := self.find(f"{path}/{ref}")):
            return found
        items, _ = self.items(path, limit=PAGE_ITEMS, name=ref)
        for item in items:
            if item["name"] == ref:
                return item
        called = command or noun
        raise RequestRefused(
            f"There is no {called} {ref}: `opsjobs {called}s list` shows them.",
            404,
            f"{noun}_not_found",
        )

    def find(self, path: str) -> Json | None:
        """Return the resource at this path, or None if there is none."""
        try:
            return dict(self.get(path))
        except RequestRefused as refused:
            if refused.status != 404:
                raise
            return None

    def raw(self, path: str, **query: Any) -> Iterator[bytes]:
        """Yield the bytes of a response as they arrive."""
        parameters = {k: v for k, v in query.items() if v is not None}
        try:
            with self._http.stream(
                "GET", path, params=parameters, headers={"accept": "*/*"}
            ) as answer:
                self._raise_for_status(answer)
                yield from answer.iter_bytes()
        except httpx2.TransportError as error:
            raise self._connection_failed(error) from error

    def follow(
        self, execution_id: int, tell: Callable[[str], None], *, after: str = "0"
    ) -> Iterator[list[Event]]:
        """Yield the events of an execution after position `after`, each once, up to its `end`.

        A lost connection is resumed after its last event, for up to 5 minutes without a response;
        `tell` reports it. A stream that ended because its token expired (`refused`, which is not an
        event of the execution) is resumed with the current token.
        """
        retry = StreamRetry(
            self.endpoint.url,
            tell,
            lambda: f"opsjobs executions follow {execution_id}",
            consequence=". The execution continues",
        )
        position, path = after, f"/executions/{execution_id}/events"
        while True:
            try:
                for events in self._stream(path, position, Parser()):
                    retry.reset()
                    fresh = [e for e in events if e.event != "refused" and is_new(e, position)]
                    position = fresh[-1].id if fresh else position
                    yield fresh
                    if fresh and fresh[-1].event == "end":
                        return
            except httpx2.TransportError:
                retry.report(LOST)
            except RetryLater as again:
                retry.report(str(again) or LOST)
            retry.wait()

    def follow_all(
        self, tell: Callable[[str], None], *, types: Sequence[str], after: str | None
    ) -> Iterator[tuple[str | None, list[Event]]]:
        """Yield the events of these types after a place, with the place that follows them.

        `after` None: from now on. It ends only by an error; a lost connection is resumed as in
        `follow`, without a gap or a repeat. The list is empty if only the place has moved.
        """
        place = after

        def resume() -> str:
            return "opsjobs events" + (f" --after {place}" if place is not None else "")

        retry = StreamRetry(self.endpoint.url, tell, resume)
        while True:
            parser = Parser()
            try:
                for events in self._stream("/events", place, parser, type=list(types)):
                    retry.reset()
                    place = parser.last_id or place
                    yield place, [each for each in events if each.event != "refused"]
            except httpx2.TransportError:
                retry.report(LOST)
            except RetryLater as again:
                retry.report(str(again) or LOST)
            retry.wait()

    def _stream(
        self, path: str, position: str | None, parser: Parser, **query: Any
    ) -> Iterator[list[Event]]:
        headers = {"accept": "text/event-stream", "cache-control": "no-store"}
        if position is not None:
            headers["last-event-id"] = position
        timeout = httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
        with self._http.stream(
            "GET", path, params=query, headers=headers, timeout=timeout
        ) as answer:
            if answer.status_code == 429:
                raise RetryLater(_parse_detail(answer))
            if answer.status_code in (500, 502, 503, 504):
                raise RetryLater
            self._raise_for_status(answer)
            for portion in answer.iter_bytes():
                yield parser.feed(portion)

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Json | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the decoded response.

        A request that may have been received is repeated: it is idempotent, by its method or its
        key.
        """
        parameters = {k: v for k, v in (query or {}).items() if v is not None}
        for attempt in range(1, SENDS_MAX + 1):
            try:
                answer = self._http.request(
                    method, path, params=parameters, json=body, headers=headers
                )
            except httpx2.TransportError as error:
                if attempt == SENDS_MAX or isinstance(
                    error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ReadTimeout
                ):
                    raise self._connection_failed(error) from error
                continue
            self._raise_for_status(answer)
            return _decode(answer.content) if answer.content else None
        raise AssertionError("the loop above returns or raises")

    def _raise_for_status(self, answer: httpx2.Response) -> None:
        if answer.is_success:
            return
        problem = _decode(answer.read())
        problem = problem if isinstance(problem, dict) else {}
        errors = [e for e in problem.get("errors") or [] if isinstance(e, dict)]
        code = str(problem.get("code") or "")
        raise RequestRefused(
            self._render_refusal(
                answer.status_code,
                answer.request.url.path.removeprefix(self._base),
                problem,
                errors,
            ),
            answer.status_code,
            code,
            tuple(str(e.get("pointer", "")) for e in errors),
        )

    def _render_refusal(self, status: int, path: str, problem: Json, errors: list[Json]) -> str:
        """Return the message of a refusal: detail, all errors, and the correction."""
        words = str(
            problem.get("detail")
            or problem.get("title")
            or f"{self.endpoint.url} answered with HTTP status {status}."
        )
        # The detail is usually that of the first error; all other errors are added.
        more = errors[1:] if errors and str(errors[0].get("detail") or "\0") in words else errors
        if more:
            words = _MORE_IN_ERRORS.sub("", words)
        lines = [words, *(_render_error(error) for error in more[:ERRORS_SHOWN])]
        if len(more) > ERRORS_SHOWN:
            lines.append(f"  and {len(more) - ERRORS_SHOWN} more")
        if status == 401 and self._login is not None:
            lines.append(
                f"The login at {self.endpoint.url} has ended. Log in again: opsjobs login NAME"
            )
        elif status == 401 and problem.get("code") != "login_failed":
            other = "another " if self.endpoint.token else ""
            lines.append(
                f"Use `opsjobs login NAME`, set {other}OPSJOBS_TOKEN, or run on the machine and as "
                "the user of `opsjobs up`."
            )
        if status >= 500 and problem.get("request_id"):
            lines.append(f"See the service's log for request_id {problem['request_id']}.")
        refused = [str(e.get("parameter")) for e in errors if e.get("in") == "query"]
        return translate_refusal("\n".join(lines), path, refused)

    def _connection_failed(self, lost: httpx2.TransportError) -> CommandFailed:
        url = self.endpoint.url
        if isinstance(lost, httpx2.ConnectError | httpx2.ConnectTimeout):
            if self.endpoint.local or _is_loopback(url):
                return CommandFailed(f"no answer from {url}. Start the service with `opsjobs up`.")
            return CommandFailed(
                f"no answer from {url} ({lost}). Check OPSJOBS_URL, and that opsjobs runs there."
            )
        return CommandFailed(
            f"{url} closed the connection ({str(lost) or type(lost).__name__}). "
            "Try again, or see the service's log."
        )


_MORE_IN_ERRORS = re.compile(r" ?\(\d+ more in errors\)")


def _render_error(error: Json) -> str:
    return (
        f"  {error.get('pointer') or error.get('parameter') or 'the whole'}: "
        f"{error.get('detail', '')}"
    )


class _LoginAuth(httpx2.Auth):
    """Authenticate with the stored login, and refresh its access token when it expires."""

    requires_response_body = True

    def __init__(self, url: str, logins: TokenStore) -> None:
        self._url = url
        self._logins = logins

    def auth_flow(
        self, request: httpx2.Request
    ) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Authorize each request with the current token."""
        login = self._logins.get(self._url)
        if login is not None and login.is_stale:
            with self._logins.lock():
                # Another command may have refreshed it meanwhile: a refresh token is valid once.
                login = self._logins.get(self._url)
                if login is not None and login.is_stale:
                    answer = yield httpx2.Request(
                        "POST",
                        f"{self._url}/auth/refresh",
                        json={"refresh_token": login.refresh_token},
                    )
                    login = self._next(login, answer)
        if login is not None:
            request.headers["authorization"] = f"Bearer {login.access_token}"
        yield request

    def _next(self, login: StoredLogin, answer: httpx2.Response) -> StoredLogin | None:
        if answer.status_code == 401:
            self._logins.forget(self._url)
            return None
        if answer.status_code != 200:
            return login  # the service fails: the request itself will report it
        following = StoredLogin.of_answer(login.user, _decode(answer.content))
        self._logins.keep(self._url, following)
        return following


def connect(*, as_login: bool = False) -> Client:
    """Return a client for the service of the environment, or the local `up`.

    It uses OPSJOBS_TOKEN, else the stored login, else the token of the local `up`. `as_login`: use
    the stored login, even if OPSJOBS_TOKEN is set. Raises CommandFailed, SettingsError.
    """
    wanted, folder = load_client()
    endpoint, logins = find_endpoint(wanted, folder), TokenStore()
    if (wanted.token is None or as_login) and logins.get(endpoint.url) is not None:
        return Client(replace(endpoint, token=None), logins)
    return Client(endpoint)


def without_token() -> Client:
    """Return a client without a token, for logging in."""
    return Client(replace(find_endpoint(*load_client()), token=None))


def path_of(noun: str, ref: object) -> str:
    """Return the path of one resource: `path_of("job", 7)` -> "/jobs/7"."""
    return f"/{noun}s/{quote(str(ref), safe='')}"


def _parse_detail(answer: httpx2.Response) -> str:
    problem = _decode(answer.read())
    return str(problem.get("detail") or "").rstrip(".") if isinstance(problem, dict) else ""


def _decode(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def is_id(ref: str) -> bool:
    """Return True if the text may be an id or a uuid; a name may look like one, too."""
    if ref.isdigit():
        return True
    try:
        return str(uuid.UUID(ref)) == ref.lower()
    except ValueError:
        return False


def is_clear_text(url: str) -> bool:
    """Return True if requests to this URL are sent in clear text."""
    return not url.startswith("https://") and not _is_loopback(url)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
