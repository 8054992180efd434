"""The Celery app: the wake-up message, its queue and its expiry."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

from celery import Celery
from celery.app.amqp import AMQP
from kombu import Connection, Queue

WAKEUP = "opsjobs.wakeup"
# Redis drops a zone's queue after this time without use: wake-ups do not pile up without workers.
WAKEUP_SECONDS_MAX = 60
# The maximum time for which an unresponsive Redis that accepts connections may block the consumer.
CONSUMER_SOCKET_SECONDS = 3.0
# A health check without a response for this long (plus the usual second) means a dead connection.
CONSUMER_HEALTH_SECONDS = 3
# Reconnect pauses. With kombu's own 30 s, wake-ups would be missing long after Redis is back.
RECONNECT_SECONDS_FIRST = 0.5
RECONNECT_SECONDS_MAX = 3.0


class _Broker(Connection):  # type: ignore[misc]  # kombu is half typed
    """A connection with short reconnect pauses."""

    def ensure_connection(self, *arguments: Any, **options: Any) -> Connection:
        pace = {
            "interval_start": RECONNECT_SECONDS_FIRST,
            "interval_step": 0.5,
            "interval_max": RECONNECT_SECONDS_MAX,
        }
        return super().ensure_connection(*arguments, **{**pace, **options})


class _Amqp(AMQP):  # type: ignore[misc]  # Celery ships no types
    Connection = _Broker


class WakeupApp(Celery):  # type: ignore[misc]  # Celery ships no types
    """Celery, set up for wake-ups only; it ignores the environment and celeryconfig modules."""

    def __init__(self, redis_url: str) -> None:
        # "disabled" is given here: CELERY_RESULT_BACKEND in the environment would take precedence
        # over the setting.
        super().__init__(
            "opsjobs", set_as_current=False, backend="disabled", loader="app", amqp=_Amqp, fixups=[]
        )
        self._broker_url = broker_url(redis_url)
        self.conf.update(SETTINGS)

    def connection_for_read(self, url: str | None = None, **options: Any) -> Connection:
        """Connect to the broker in the settings; CELERY_BROKER_URL is ignored."""
        return super().connection_for_read(url or self._broker_url, **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> Connection:
        """Connect to the broker in the settings; CELERY_BROKER_URL is ignored."""
        return super().connection_for_write(url or self._broker_url, **options)


SETTINGS: dict[str, Any] = {
    "accept_content": ["json"],
    "task_serializer": "json",
    "result_serializer": "json",
    "task_ignore_result": True,
    "task_acks_late": False,
    "task_create_missing_queues": False,
    "task_publish_retry": False,
    "task_send_sent_event": False,
    "worker_prefetch_multiplier": 1,
    "worker_concurrency": 1,
    "worker_pool": "solo",
    "worker_disable_rate_limits": True,
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    # There is nothing to cancel; set so that Celery does not warn at each reconnect.
    "worker_cancel_long_running_tasks_on_connection_loss": True,
    "worker_enable_prefetch_count_reduction": False,
    "broker_connection_retry": True,
    "broker_connection_retry_on_startup": True,
    # By default it gives up after 100 tries, about 46 minutes, and the worker exits.
    "broker_connection_max_retries": None,
    "broker_connection_timeout": CONSUMER_SOCKET_SECONDS,
    "broker_heartbeat": 0,
    "broker_pool_limit": 1,
    "beat_schedule": {},
    "beat_enable_remote_control": False,
    "enable_utc": True,
    "timezone": "UTC",
    "broker_transport_options": {
        "socket_timeout": CONSUMER_SOCKET_SECONDS,
        "socket_connect_timeout": CONSUMER_SOCKET_SECONDS,
        "socket_keepalive": True,
        "health_check_interval": CONSUMER_HEALTH_SECONDS,
        "client_name": "opsjobs-wakeup",
        # One list for each queue, and no copy of unacknowledged messages: the slow poll covers a
        # lost one.
        "priority_steps": [0],
        "ack_emulation": False,
        "visibility_timeout": WAKEUP_SECONDS_MAX,
    },
}


def wakeup_queue(zone: str) -> Queue:
    """Return the queue that the workers of `zone` consume."""
    return Queue(f"{WAKEUP}.{zone}", expires=WAKEUP_SECONDS_MAX)


def broker_url(redis_url: str) -> str:
    """Return REDIS_URL in Celery's form.

    In that form, Unix sockets are redis+socket://, and TLS does not verify certificates without an
    option. Raises ValueError for any scheme other than redis, rediss and unix.
    """
    parts = urlsplit(redis_url)
    if parts.scheme == "redis" or (parts.scheme == "rediss" and "ssl_cert_reqs=" in parts.query):
        return redis_url
    if parts.scheme == "rediss":
        return f"{redis_url}{'&' if parts.query else '?'}ssl_cert_reqs=required"
    if parts.scheme != "unix":
        raise ValueError(
            f"REDIS_URL: unknown scheme {parts.scheme or '?'}://. "
            "Use redis://, rediss:// or unix://."
        )
    login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    number = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{login}{parts.path}?virtual_host={number}"
