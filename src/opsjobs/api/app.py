"""Assembly of the HTTP application, and the process that serves it."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

from opsjobs import __version__
from opsjobs.api import (
    api_keys,
    approvals,
    audit,
    calendars,
    credentials,
    dead_letters,
    events,
    execution_overview,
    executions,
    files,
    jobs,
    jobs_as_code,
    log,
    notifications,
    openapi,
    output_lines,
    problems,
    schedule_preview,
    schedules,
    service_identities,
    sessions,
    single_sign_on,
    system,
    target_selection,
    targets,
    triggers,
    users,
    webhooks,
)
from opsjobs.api.authentication import AuthMiddleware
from opsjobs.api.body import JsonBodyMiddleware
from opsjobs.api.connections import (
    WARNING_SECONDS,
    ConnectionLimits,
    HttpConnection,
    backlog_of,
    most_of,
)
from opsjobs.api.cookies import CookiePolicy
from opsjobs.api.events import EventTail
from opsjobs.api.follower import Followers
from opsjobs.api.middleware import (
    AllowedMethods,
    AllowedMethodsMiddleware,
    CompressionMiddleware,
    RequestContextMiddleware,
)
from opsjobs.api.output_lines import SearchThreads
from opsjobs.api.quotas import FileQuota, OpenExecutions
from opsjobs.api.rate_limits import (
    ClientAddresses,
    RateLimitMiddleware,
    Streams,
    UnauthenticatedLimiter,
)
from opsjobs.api.system import Probes
from opsjobs.composition import build, build_inspection_loop, build_integration_loop
from opsjobs.composition.liveness import Liveness, serve_metrics
from opsjobs.composition.process import raise_descriptor_limit, spare_the_collector
from opsjobs.composition.services import Services
from opsjobs.model.access import Role
from opsjobs.model.errors import Refusal, Unavailable
from opsjobs.model.secret import Secret
from opsjobs.settings import Settings
from opsjobs.store.files import FileLimits
from opsjobs.telemetry import logs, tracing
from opsjobs.web.console import ConsoleMiddleware

# Routers are tried in this order.
_ROUTERS = (
    executions.router,  # first, because it is requested most often
    execution_overview.router,
    output_lines.router,
    jobs_as_code.router,  # before jobs: /jobs/export is not a job id
    jobs.router,
    schedule_preview.router,  # before schedules: /schedules/forecast is not an id
    schedules.router,
    triggers.router,
    target_selection.picker_router,  # before targets: /targets/labels is not an id
    targets.router,
    target_selection.router,
    calendars.router,
    notifications.router,
    credentials.router,
    credentials.keys_router,
    dead_letters.router,
    approvals.router,
    approvals.safety_router,
    webhooks.router,
    events.router,
    log.router,
    files.router,
    api_keys.router,
    users.router,
    sessions.router,
    single_sign_on.router,
    service_identities.router,
    users.external_router,
    audit.router,
    system.router,
)
ADMIN = "admin"
# Routes whose bodies are not JSON and are read by the route itself.
RAW = frozenset({("POST", "/files")})
ADMIN_RETRY_SECONDS = 1
# FastAPI would export messages of exceptions and rejected input, which may hold secrets; the spans
# of requests are those of RequestContextMiddleware.
_NO_OTHER_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
GRACE_SECONDS = 10
# How long the services may take to close once the last request has ended.
CLOSE_SECONDS = 10


def create_app(services: Services, *, admin_token: Secret | None = None) -> FastAPI:
    """Return the application over these services; its lifespan opens and closes them.

    `services.limits` has the body limit, and whether /docs and /openapi.json are served.
    `admin_token` is made valid at start, as the API key `admin`.
    """
    app = FastAPI(
        title="opsjobs",
        version=__version__,
        description=(
            "OpsConductor's Job Execution Service: "
            "jobs on thousands of machines, without an agent, over SSH and WinRM."
        ),
        openapi_url="/openapi.json" if services.limits.docs else None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        root_path_in_servers=False,
        telemetry=_NO_OTHER_TELEMETRY,
        generate_unique_id_function=openapi.operation_id,
        lifespan=_lifespan(services, admin_token),
    )
    app.state.services = services
    app.state.probes = Probes(services, admin_waits=admin_token is not None)
    app.state.streams = Streams(services.limits.streams_a_caller)
    app.state.search_threads = SearchThreads()
    app.state.open_executions = OpenExecutions(
        services.limits.open_executions, services.executions, services.clock
    )
    app.state.file_quota = FileQuota(
        FileLimits(services.limits.files_bytes, services.limits.files_a_caller_bytes)
    )
    app.state.followers = Followers(services.execution_log, services.bus)
    app.state.event_tail = EventTail(
        services.event_feed,
        services.event_builder,
        services.event_visibility,
        services.metrics,
    )
    app.state.cookies = CookiePolicy(
        services.limits.trusted_proxies, plain_http=services.limits.plain_cookies
    )
    for router in _ROUTERS:
        app.include_router(router)
    problems.install(app)
    openapi.describe(app, docs=services.limits.docs)
    _add_layers(app, services)
    return app


def _add_layers(app: FastAPI, services: Services) -> None:
    """Add the middleware, from the inside out.

    A request passes RequestContextMiddleware first, then ConsoleMiddleware, AuthMiddleware,
    RateLimitMiddleware, AllowedMethodsMiddleware, CompressionMiddleware and JsonBodyMiddleware.
    """
    app.state.methods = AllowedMethods(app)
    app.add_middleware(
        JsonBodyMiddleware,
        limit_bytes=services.limits.body_bytes,
        methods=app.state.methods,
        raw=RAW,
    )
    app.add_middleware(CompressionMiddleware)
    app.add_middleware(AllowedMethodsMiddleware, methods=app.state.methods)
    app.add_middleware(
        RateLimitMiddleware, a_second=services.limits.requests_a_second, clock=services.clock
    )
    app.add_middleware(
        AuthMiddleware,
        authenticator=services.authentication.authenticator,
        addresses=ClientAddresses(services.limits.trusted_proxies),
        limiter=UnauthenticatedLimiter(
            services.limits.unauthenticated_a_second,
            services.clock,
            body_bytes=services.limits.body_bytes,
        ),
        cookies=app.state.cookies,
    )
    app.add_middleware(ConsoleMiddleware)
    app.add_middleware(RequestContextMiddleware, metrics=services.metrics)


def _lifespan(
    services: Services, admin_token: Secret | None
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await services.open()
        spare_the_collector()
        admin = asyncio.create_task(_admit_admin(services, admin_token, app.state.probes))
        loops = (build_inspection_loop(services), build_integration_loop(services))
        for loop in loops:
            loop.start()
        try:
            yield
        finally:
            for loop in loops:
                await loop.stop()
            admin.cancel()
            with suppress(asyncio.CancelledError):
                await admin
            await _close_streams(app)
            await services.close()

    return lifespan


async def _close_streams(app: FastAPI) -> None:
    await app.state.followers.close()
    await app.state.event_tail.close()


async def _admit_admin(services: Services, token: Secret | None, probes: Probes) -> None:
    await _make_valid(services, token)
    probes.admin_waits = False


async def _make_valid(services: Services, token: Secret | None) -> None:
    # PostgreSQL may start after this process: until the token is stored, every request is refused.
    while token is not None:
        try:
            await services.identities.ensure_key(ADMIN, Role.ADMIN.value, token.reveal())
        except Unavailable as away:
            logs.log.warning("admin_token_waits", reason=str(away))
            await services.clock.sleep(ADMIN_RETRY_SECONDS)
        except Refusal as refused:
            logs.log.error("admin_token_refused", reason=refused.detail)
            return
        else:
            return


class _Server(uvicorn.Server):
    """Server that ends the event streams first: uvicorn would wait for their viewers to leave."""

    def __init__(
        self,
        config: uvicorn.Config,
        close_streams: Callable[[], Awaitable[None]],
        liveness: Liveness,
    ) -> None:
        super().__init__(config)
        self._close_streams = close_streams
        self._liveness = liveness
        self._accept_warned_at = float("-inf")

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop gracefully at the first signal, at once at the second.

        Unlike uvicorn, the signal is not raised again, so that the process ends with its own exit
        code.
        """
        before = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen.

        Connections that cannot be accepted are logged in one line once a second: the event loop
        would log each attempt.
        """
        asyncio.get_running_loop().set_exception_handler(self._note_trouble)
        await super().startup(sockets)
        if self.started:
            self._liveness.start()

    def _note_trouble(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "socket.accept()" not in context.get("message", ""):
            loop.default_exception_handler(context)
        elif loop.time() >= self._accept_warned_at + WARNING_SECONDS:
            self._accept_warned_at = loop.time()
            logs.log.error("connections_not_accepted", reason=str(context.get("exception")))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the event streams, then all other connections."""
        self._liveness.begin_stop(GRACE_SECONDS + CLOSE_SECONDS)
        await self._close_streams()
        await super().shutdown(sockets)
        await self._liveness.stop()


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code of the process.

    Raises SettingsError, ValueError, OSError.
    """
    logs.configure("api", settings.telemetry.log_level)
    tracing.start("api")
    services = build(settings)
    liveness = Liveness()
    serve_metrics(settings, services.metrics, liveness)
    app = create_app(services, admin_token=settings.security.admin_token)
    allowed = raise_descriptor_limit()
    limits = ConnectionLimits(
        most=most_of(allowed),
        per_address=settings.api.connections_per_address,
        trusted=settings.identity.trusted_proxies,
        now=services.clock.monotonic,
    )
    config = uvicorn.Config(
        app,
        host=settings.api.host,
        port=settings.api.port,
        http=partial(HttpConnection, limits=limits),  # type: ignore[arg-type]  # it is only called
        backlog=backlog_of(allowed),
        loop="asyncio",  # HttpConnection needs asyncio's transport
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = _Server(config, partial(_close_streams, app), liveness)
    server.run()
    services.metrics.close()
    tracing.stop()
    return 0 if server.started else 1
