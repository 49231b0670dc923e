"""`vault`: a layer is a KV secret. Secrets with a lease are the layer `dynamic`."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import ClassVar
from urllib.parse import quote

from agent.errors import SourceInvalid
from agent.model import Layer, Snapshot
from agent.net.backoff import jittered
from agent.sources import SourceContext, decoding, key_tree
from agent.sources.backends.vault_auth import VaultOptions
from agent.sources.backends.vault_leases import VaultLeases
from agent.sources.backends.vault_session import table_of
from agent.sources.waiting import wait_for_any


class VaultSource:
    """Vault from 0.10 on, and OpenBao. The KV engines are at https://developer.hashicorp.com/vault/api-docs/secret/kv."""

    options_class: ClassVar[type[VaultOptions]] = VaultOptions
    added_layers: ClassVar[tuple[str, ...]] = ("dynamic",)

    def __init__(self, options: VaultOptions, context: SourceContext) -> None:
        self._options = options
        self._context = context
        self._engine_version = ""
        self._closed = threading.Event()
        self._woken = threading.Event()
        self._leases = VaultLeases(options, context, self._woken.set)
        self._poll_at = self._next_poll()

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        with self._leases.lock:
            try:
                deadline = time.monotonic() + self._context.timeout_seconds
                fetched = [self._layer(layer, deadline) for layer in layers]
                if self._options.dynamic:
                    fetched.append(self._leases.fetch(deadline))
                return Snapshot(tuple(fetched), key_tree.combined_revision(fetched), secret=True)
            finally:
                self._poll_at = self._next_poll()
                self._leases.reschedule()

    def _next_poll(self) -> float:
        return time.monotonic() + jittered(self._context.poll_seconds)

    def _layer(self, layer: str, deadline: float) -> Layer:
        path = key_tree.join_path(self._options.prefix, layer)
        if not path:
            raise SourceInvalid("a layer without a path is not a secret of Vault", hint="set prefix, or name the layer")
        mount = quote(self._options.mount.strip("/"))
        version = self._read_engine_version(mount, deadline)
        url_path = f"{mount}/{'data/' if version == '2' else ''}{quote(path)}"
        reply = self._leases.session.ask("GET", url_path, deadline)
        if reply.status == 404:  # in version 2 also for a deleted secret, whose metadata the answer has
            return Layer(layer, None)
        answer = table_of(reply, "data")
        if version != "2":
            return Layer(layer, decoding.plain_table(answer, reply.url), key_tree.digest(reply.body))
        metadata, content = answer.get("metadata") or {}, answer.get("data")
        if content is None:
            return Layer(layer, None)
        return Layer(layer, decoding.plain_table(content, reply.url), str(metadata.get("version", "")))

    def _read_engine_version(self, mount: str, deadline: float) -> str:
        """Return the version of the KV engine, "1" or "2". It is read once."""
        if not self._engine_version:
            reply = self._leases.session.ask("GET", f"sys/internal/ui/mounts/{mount}", deadline)
            if reply.status == 404:
                raise SourceInvalid(f"{reply.url}: nothing is mounted there", hint="check mount")
            options = table_of(reply, "data").get("options")
            self._engine_version = str((options or {}).get("version") or "1")
        return self._engine_version

    def watch(self, seen: Snapshot, timeout_seconds: float) -> bool:
        """Return True when a lease must be replaced, and at the poll, because KV engines send no notifications.

        From the first watch on, a thread renews what is due. Neither a back-off nor a convergence nor a denied layer
        between two watches delays it.
        """
        deadline = time.monotonic() + timeout_seconds
        if self._options.dynamic or self._options.auth != "token":
            self._leases.keep_renewing()
        while True:
            self._woken.clear()
            if self._closed.is_set() or self._context.stopping.is_set():
                return False
            if self._leases.bug is not None:
                bug, self._leases.bug = self._leases.bug, None
                raise bug
            now = time.monotonic()
            if self._poll_at <= now or self._leases.has_lost():
                return True
            if deadline <= now:
                return False
            wait_for_any(min(self._poll_at, deadline) - now, self._woken, self._context.stopping)

    def close(self) -> None:
        self._closed.set()
        self._woken.set()
        self._leases.close()
