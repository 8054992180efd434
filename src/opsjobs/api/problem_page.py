"""Problems as pages, for browsers that come by a link and not from a script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from opsjobs.api.paths import route_path
from opsjobs.composition.paths import CONSOLE

MEDIA_TYPE = "text/html"
LOGIN = "/auth/oidc"
PATHS = frozenset({LOGIN, f"{LOGIN}/callback"})
"""Routes to which browsers are sent."""
_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0; font: 14px / 20px system-ui, sans-serif; overflow-wrap: anywhere; }
main { max-width: 480px; margin: 15vh auto 0; padding: 16px; }
h1 { margin: 0; font-size: 20px; line-height: 28px; }
small { opacity: 0.75; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            f"style-src 'sha256-{_STYLE_HASH}'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
}


def is_page_wanted(scope: Scope) -> bool:
    """Return True if a browser shows the answer to a person."""
    return (
        scope["method"] in ("GET", "HEAD")
        and route_path(scope) in PATHS
        and "text/html" in Headers(scope=scope).get("accept", "")
    )


def render_page(scope: Scope, problem: Mapping[str, Any], retry_after: str | None) -> bytes:
    """Return the page of a problem document: its reason, when to try again, and where.

    `retry_after`: the seconds of the header Retry-After, if the answer has it.
    """
    links = [f'<a href="{CONSOLE}">Back to the console</a>']
    if route_path(scope) == LOGIN:
        query = scope["query_string"].decode("latin-1")
        address = f"{scope['path']}?{query}" if query else scope["path"]
        links.insert(0, f'<a href="{escape(address)}">Try again</a>')
    wait = f"<p>Try again in {_render_seconds(retry_after)}.</p>" if retry_after else ""
    request = problem["request_id"] or "unknown"
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<title>Not logged in · opsjobs</title><meta name="viewport" content="width=device-width">
<style>{_STYLE}</style></head><body><main>
<h1>You are not logged in</h1>
<p>{escape(problem["detail"])}</p>
{wait}
<p>{" · ".join(links)}</p>
<p><small>{escape(problem["code"])}, request {escape(request)}</small></p>
</main></body></html>
""".encode()


def _render_seconds(retry_after: str) -> str:
    return "a second" if retry_after == "1" else f"{retry_after} seconds"
