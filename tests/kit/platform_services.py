"""The platform's services in each generation: one ASGI app on a real socket, with named faults.

Every service has a folder of its own, so that paths of one generation do not collide:
`url("target")` is the value of TARGET_SERVICE_URL.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

V3, MS, NG = "opsconductor-v3", "opsconductor-ms", "opsconductor-ng"
GENERATIONS = (V3, MS, NG)
OWN = "own"
"""A platform that no built-in profile describes, but `OWN_PROFILE`."""
FAULTS = ("slow", "cut", "500", "garbage", "endless", "redirect", "refused")
UNANSWERED = "unanswered"
"""The fault of a service that does what was requested, but whose response is lost."""
OWN_PROFILE = """
name: own
headers: {correlation: X-Request-ID}
targets:
  get: {path: "/hosts/{id}", data: host}
  list: {path: /hosts, items: hosts, skip: offset, limit: count, page: 500}
  batch: {path: /hosts/lookup, ids: ids, items: hosts, size: 500}
  credentials: {path: "/hosts/{id}/login", data: login}
  fields:
    name: hostname
    host: address.ipv4
    port: ssh_port
    platform: os
    tags: tags
    active: enabled
users:
  get: {path: "/people/{id}"}
  fields: {active: enabled, roles: groups, permissions: permissions}
auth: {path: /tokens/check, token: token}
notifications:
  path: /messages
  accept: [202]
  body: {id: "{correlation_id}", to: "{recipient}", subject: "[{priority}] {title}"}
audit:
  path: /log
  accept: [204]
  body: {id: "{event_id}", what: "{event_type:upper}", who: "{user_id}", details: "{details}"}
"""


@dataclass(frozen=True)
class Call:
    """One request as it arrived."""

    service: str
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


@dataclass
class PlatformServices:
    """The data of the services, their faults, and the requests that they got."""

    generation: str = V3
    targets: dict[str, dict[str, Any]] = field(default_factory=dict)
    credentials: dict[str, dict[str, Any]] = field(default_factory=dict)
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)
    notifications: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)
    """The fault of each service, one of FAULTS."""
    takes: Callable[[Call], bool] = lambda _: True
    """Returns True if a call's credentials are valid."""
    has_batch: bool = True
    ignores_skip: bool = False
    calls: list[Call] = field(default_factory=list)
    port: int = 0

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.port}/{service}"

    def add_target(self, id: str, name: str, host: str, port: int, **more: Any) -> dict[str, Any]:
        """Add a target, in the form of this generation."""
        tags = more.pop("tags", [])
        if self.generation == OWN:
            address = {"hostname": name, "address": {"ipv4": host}, "ssh_port": port}
            self.targets[id] = {"id": id, "tags": tags, "os": "linux", **address, **more}
            return self.targets[id]
        if self.generation == NG:
            shape = {"ip_address": host, "port": port, "os_type": "linux", "service_type": "ssh"}
        else:
            key = "communication_methods" if self.generation == V3 else "connection_methods"
            method = {
                "method_type": "ssh",
                "is_active": True,
                "is_primary": True,
                "priority": 1,
                "config": {"host": host, "port": port},
            }
            shape = {"os_type": "linux", key: [method]}
        number: Any = int(id) if id.isdigit() else id
        self.targets[id] = {"id": number, "name": name, "tags": tags, **shape, **more}
        return self.targets[id]

    def add_user(self, name: str, role: str) -> None:
        """Add an active user with a role, and an opaque token of the same name."""
        if self.generation == OWN:
            self.users[name] = {"id": name, "enabled": True, "groups": [role]}
        else:
            self.users[name] = {"id": name, "username": name, "is_active": True, "role": role}
        self.tokens[name] = {"valid": True, "user": name, "roles": [role]}

    def notification_ids(self) -> list[str]:
        """The ids of the notifications that arrived, in order."""
        match self.generation:
            case _ if self.generation == V3:
                return [each["data"]["id"] for each in self.notifications]
            case _ if self.generation == MS:
                return [each["correlation_id"] for each in self.notifications]
            case _ if self.generation == NG:
                return [each["metadata"]["id"] for each in self.notifications]
        return [each["id"] for each in self.notifications]

    def audit_numbers(self) -> list[int]:
        """The numbers of the audit rows that arrived, in order."""
        details = "event_data" if self.generation == MS else "details"
        return [each[details]["id"] for each in self.events]

    def asked(self, service: str) -> list[Call]:
        return [call for call in self.calls if call.service == service]


@contextmanager
def platform_services(generation: str = V3) -> Iterator[PlatformServices]:
    """Run the services of a generation on a free port of 127.0.0.1."""
    state = PlatformServices(generation)
    listener = socket.create_server(("127.0.0.1", 0))
    state.port = listener.getsockname()[1]
    config = uvicorn.Config(
        _app(state), log_config=None, lifespan="off", timeout_graceful_shutdown=1, ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


Handler = Callable[[PlatformServices, Call, str], Any]


def _app(state: PlatformServices) -> Starlette:
    routes = [
        Route(
            f"/{service}{path}",
            _route(state, service, handler),
            methods=[method],
        )
        for service, method, path, handler in _TABLES[state.generation]
    ]
    # A path that the generation does not have is 404, and counted like the others.
    anything = [
        Route(
            f"/{service}/{{rest:path}}", _route(state, service, _nothing), methods=["GET", "POST"]
        )
        for service in ("target", "user", "auth", "notification", "audit")
    ]
    return Starlette(routes=[*routes, *anything])


def _route(state: PlatformServices, service: str, handler: Handler) -> Any:
    async def answer(request: Request) -> Response:
        raw = await request.body()
        path = request.url.path.removeprefix(f"/{service}")
        call = Call(
            service,
            request.method,
            path,
            dict(request.query_params),
            dict(request.headers),
            json.loads(raw) if raw else None,
        )
        state.calls.append(call)
        fault = state.faults.get(service)
        if fault is not None and fault != UNANSWERED:
            return await _faulty(fault)
        if not state.takes(call):
            return JSONResponse({"detail": "Not authenticated"}, 401)
        found = handler(state, call, request.path_params.get("id", ""))
        if fault == UNANSWERED:
            return await _faulty("cut")
        return found if isinstance(found, Response) else JSONResponse(found)

    return answer


async def _faulty(fault: str) -> Response:
    match fault:
        case "slow":
            await asyncio.sleep(30)
        case "cut":
            return StreamingResponse(_cut(), headers={"content-length": "100"})
        case "garbage":
            return Response(b"<html>It works!</html>", media_type="text/html")
        case "endless":
            return StreamingResponse(_endless(), media_type="application/json")
        case "redirect":
            return RedirectResponse("http://127.0.0.1:9/elsewhere", 307)
        case "refused":
            return JSONResponse({"detail": "Not authenticated"}, 401)
    return JSONResponse({"detail": "boom"}, 500)


async def _cut() -> AsyncIterator[bytes]:
    """Send the first part of a response, like a process that dies then."""
    yield b'{"x": '
    raise ConnectionError


async def _endless() -> AsyncIterator[bytes]:
    yield b'{"x": "'
    for _ in range(100_000):
        yield b"x" * 65_536


def _nothing(_: PlatformServices, __: Call, ___: str) -> Response:
    return JSONResponse({"detail": "Not Found"}, 404)


def _page(state: PlatformServices, call: Call) -> list[Any]:
    skip, limit = int(call.query.get("skip", 0)), int(call.query.get("limit", 100))
    if limit > 1_000:
        raise ValueError("the services give at most 1,000 a page")
    if state.ignores_skip:
        skip = 0
    return [*state.targets.values()][skip : skip + limit]


def _bare_list(state: PlatformServices, call: Call, _: str) -> Any:
    return _page(state, call)


def _named_list(state: PlatformServices, call: Call, _: str) -> Any:
    return {"targets": _page(state, call), "total": len(state.targets)}


def _data_list(state: PlatformServices, call: Call, _: str) -> Any:
    return {"success": True, "data": _page(state, call)}


def _one(state: PlatformServices, call: Call, id: str) -> Any:
    return state.targets.get(id) or _nothing(state, call, id)


def _batch(state: PlatformServices, call: Call, _: str) -> Any:
    if not state.has_batch:
        return JSONResponse({"detail": "Method Not Allowed"}, 405)
    wanted = [str(one) for one in call.body["target_ids"]]
    return {"targets": [state.targets[one] for one in wanted if one in state.targets]}


def _hosts(state: PlatformServices, call: Call, _: str) -> Any:
    skip, limit = int(call.query.get("offset", 0)), int(call.query.get("count", 100))
    return {"hosts": [*state.targets.values()][skip : skip + limit]}


def _host(state: PlatformServices, call: Call, id: str) -> Any:
    found = state.targets.get(id)
    return _nothing(state, call, id) if found is None else {"host": found}


def _lookup(state: PlatformServices, call: Call, _: str) -> Any:
    return {"hosts": [state.targets[one] for one in call.body["ids"] if one in state.targets]}


def _host_login(state: PlatformServices, call: Call, id: str) -> Any:
    found = state.credentials.get(id)
    return _nothing(state, call, id) if found is None else {"login": found}


def _message(state: PlatformServices, call: Call, _: str) -> Any:
    state.notifications.append(call.body)
    return JSONResponse({"accepted": True}, 202)


def _log(state: PlatformServices, call: Call, _: str) -> Any:
    state.events.append(call.body)
    return Response(status_code=204)


def _credentials(state: PlatformServices, call: Call, id: str) -> Any:
    return state.credentials.get(id) or _nothing(state, call, id)


def _credentials_in_data(state: PlatformServices, call: Call, id: str) -> Any:
    found = state.credentials.get(id)
    return _nothing(state, call, id) if found is None else {"success": True, "data": found}


def _user(state: PlatformServices, call: Call, id: str) -> Any:
    return state.users.get(id) or _nothing(state, call, id)


def _validate(state: PlatformServices, call: Call, _: str) -> Any:
    return state.tokens.get(call.body["token"], {"valid": False})


def _notify(state: PlatformServices, call: Call, _: str) -> Any:
    state.notifications.append(call.body)
    return JSONResponse({"id": len(state.notifications)}, 201)


def _event(state: PlatformServices, call: Call, _: str) -> Any:
    state.events.append(call.body)
    return JSONResponse({"id": len(state.events)}, 201)


_TABLES: dict[str, list[tuple[str, str, str, Handler]]] = {
    V3: [
        ("target", "POST", "/api/v3/targets/batch", _batch),
        ("target", "GET", "/api/v3/targets/", _bare_list),
        ("target", "GET", "/api/v3/targets/{id}", _one),
        ("target", "GET", "/api/v3/targets/{id}/credentials", _credentials),
        ("user", "GET", "/api/users/{id}", _user),
        ("auth", "POST", "/api/auth/validate", _validate),
        ("notification", "POST", "/api/v1/notifications", _notify),
        ("audit", "POST", "/api/v1/audit/events", _event),
    ],
    MS: [
        ("target", "GET", "/api/v1/targets/", _named_list),
        ("target", "GET", "/api/v1/targets/{id}", _one),
        ("user", "GET", "/api/v1/users/{id}", _user),
        ("auth", "POST", "/api/auth/validate", _validate),
        ("notification", "POST", "/api/v1/notifications/notifications/", _notify),
        ("audit", "POST", "/api/v1/audit/events", _event),
    ],
    NG: [
        ("target", "GET", "/", _data_list),
        ("target", "GET", "/{id}", _one),
        ("target", "GET", "/{id}/credentials", _credentials_in_data),
        ("notification", "POST", "/notifications", _notify),
    ],
    OWN: [
        ("target", "POST", "/hosts/lookup", _lookup),
        ("target", "GET", "/hosts", _hosts),
        ("target", "GET", "/hosts/{id}", _host),
        ("target", "GET", "/hosts/{id}/login", _host_login),
        ("user", "GET", "/people/{id}", _user),
        ("auth", "POST", "/tokens/check", _validate),
        ("notification", "POST", "/messages", _message),
        ("audit", "POST", "/log", _log),
    ],
}
