"""`dns`: SRV and address records as `services.NAME`, in the shape of Consul's services."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from agent.errors import SourceInvalid, SourceUnreachable
from agent.model import Layer, Snapshot
from agent.settings.schema import setting
from agent.sources import SourceContext, key_tree, optional

_EXTRA_SECONDS = 1.0
"""dnspython keeps the source's time-out by itself and says which name failed; the thread around it ends later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsOptions:
    services: dict[str, str] = setting(
        "NAME = a name of SRV records such as _http._tcp.web, or HOST:PORT for address records; a layer is its domain"
    )
    nameservers: tuple[str, ...] = setting("nameservers instead of those in /etc/resolv.conf, each ADDRESS or ADDRESS:PORT", ())

    def __post_init__(self) -> None:
        if not self.services:
            raise ValueError("services is empty; name at least one")
        for name, record in self.services.items():
            _, colon, port = record.partition(":")
            if not record.startswith("_") and not (colon and port.isdigit() and 0 < int(port) < 65536):
                raise ValueError(f'services.{name}: "{record}" is neither an SRV name (_http._tcp.web) nor HOST:PORT')
        for server in self.nameservers:
            address, port_number = parse_server(server)
            ipaddress.ip_address(address)
            if not 0 < port_number < 65536:
                raise ValueError(f'nameservers: "{server}" has no valid port')


class DnsSource:
    """A name that does not exist is absent from its layer; a name without such records gives an empty list.

    SRV records are RFC 2782.
    """

    options_class: ClassVar[type[DnsOptions]] = DnsOptions

    def __init__(self, options: DnsOptions, context: SourceContext) -> None:
        optional.require("dns", "dns", "dns", "python3-dnspython")
        self._options = options
        self._context = context
        self._closed = False

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        seconds = self._context.timeout_seconds + _EXTRA_SECONDS
        call = lambda: self._fetch(layers)  # noqa: E731 - one line
        return optional.call_with_timeout(seconds, call, "the nameservers", stopping=self._context.stopping)

    def _fetch(self, layers: Sequence[str]) -> Snapshot:
        deadline = time.monotonic() + self._context.timeout_seconds
        resolver = self._resolver()
        fetched = []
        for layer in layers:
            services = {
                name: instances
                for name, record in self._options.services.items()
                if (instances := self._instances(resolver, record, layer, deadline)) is not None
            }
            tree = {"services": services} if services else None
            fetched.append(Layer(layer, tree, key_tree.digest(repr(services))))
        return Snapshot(tuple(fetched), key_tree.combined_revision(fetched))

    def _instances(self, resolver: Any, record: str, domain: str, deadline: float) -> list[dict[str, Any]] | None:
        """Return the instances of a service, or None if its name does not exist."""
        host, _, port = record.partition(":")
        name = f"{host}.{domain}" if domain and not host.endswith(".") else host
        if record.startswith("_"):
            return self._srv_instances(resolver, name, deadline)
        addresses = self._addresses(resolver, name, deadline)
        return None if addresses is None else [_instance(address, int(port), name, {}) for address in addresses]

    def _srv_instances(self, resolver: Any, name: str, deadline: float) -> list[dict[str, Any]] | None:
        answer = self._query(resolver, name, "SRV", deadline)
        if answer is None:
            return None
        ranked = []
        for srv in answer:
            target = srv.target.to_text().rstrip(".")
            if not target:  # RFC 2782: a target of "." means that the service is not available
                continue
            meta = {"priority": str(srv.priority), "weight": str(srv.weight)}
            addresses = self._addresses(resolver, f"{target}.", deadline) or []
            ranked += [(srv.priority, -srv.weight, _instance(one, srv.port, target, meta)) for one in addresses]
        if answer and not ranked and any(srv.target.to_text() != "." for srv in answer):
            raise SourceInvalid(f"{name}: no target of its SRV records has an address")
        ranked.sort(key=lambda item: (item[0], item[1], item[2]["address"], item[2]["port"]))
        return [instance for _, _, instance in ranked]

    def _addresses(self, resolver: Any, name: str, deadline: float) -> list[str] | None:
        answers = [self._query(resolver, name, kind, deadline) for kind in ("A", "AAAA")]
        if answers[0] is None:
            return None
        return sorted(record.address for records in answers if records for record in records)

    def _query(self, resolver: Any, name: str, kind: str, deadline: float) -> list[Any] | None:
        """Return the records, [] if the name has none of this kind, or None if the name does not exist."""
        import dns.exception
        import dns.resolver

        left = deadline - time.monotonic()
        if left <= 0 or self._closed or self._context.stopping.is_set():
            raise SourceUnreachable(f"{name}: the nameservers do not answer in time")
        try:
            return list(resolver.resolve(name, kind, lifetime=left, search=False, raise_on_no_answer=False).rrset or ())
        except dns.resolver.NXDOMAIN:
            return None
        except (dns.exception.SyntaxError, dns.exception.FormError, dns.name.LabelTooLong, dns.name.EmptyLabel):
            raise SourceInvalid(f"{name} is not a domain name, or its answer is malformed") from None
        except (dns.exception.DNSException, OSError) as error:
            reason = "do not answer in time" if isinstance(error, dns.exception.Timeout) else f"fail{_rcodes(error)}"
            hint = "ask with `dig`; check nameservers or /etc/resolv.conf"
            raise SourceUnreachable(f"{name}: the nameservers {reason}", hint=hint) from None

    def _resolver(self) -> Any:
        import dns.resolver

        try:
            resolver = dns.resolver.Resolver(configure=not self._options.nameservers)
        except dns.resolver.NoResolverConfiguration:
            raise SourceUnreachable("/etc/resolv.conf names no nameserver") from None
        if self._options.nameservers:
            servers = [parse_server(server) for server in self._options.nameservers]
            resolver.nameservers = [address for address, _ in servers]
            resolver.nameserver_ports = dict(servers)
        resolver.timeout = max(0.5, self._context.timeout_seconds / 3)
        return resolver

    def close(self) -> None:
        self._closed = True


def _rcodes(error: BaseException) -> str:
    """Return " with SERVFAIL" and the like, from the answers of the nameservers that did answer, or ""."""
    import dns.rcode

    errors = getattr(error, "kwargs", {}).get("errors", ())
    codes = {dns.rcode.to_text(one[4].rcode()) for one in errors if len(one) > 4 and one[4] is not None}
    return f" with {', '.join(sorted(codes))}" if codes else ""


def parse_server(text: str) -> tuple[str, int]:
    """Return (address, port) of "ADDRESS", "ADDRESS:PORT" or "[ADDRESS]:PORT". The port is 0 if it is not a number."""
    address, _, port = text.rpartition(":") if text.count(":") == 1 or "]:" in text else (text, "", "53")
    return address.strip("[]"), int(port) if port.isdigit() else 0


def _instance(address: str, port: int, node: str, meta: dict[str, str]) -> dict[str, Any]:
    return {"address": address, "port": port, "node": node.rstrip("."), "tags": [], "meta": meta}
