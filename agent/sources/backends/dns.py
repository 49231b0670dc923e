"""`dns`: SRV and address records as `services.NAME`, in the shape that Consul's services have."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsOptions:
    services: dict[str, str] = setting(
        "NAME = a name of SRV records such as _http._tcp.web, or HOST:PORT for address records; a layer is its domain"
    )
    nameservers: tuple[str, ...] = setting("addresses asked instead of /etc/resolv.conf's, each ADDRESS or ADDRESS:PORT", ())

    def __post_init__(self) -> None:
        if not self.services:
            raise ValueError("services is empty; name at least one")
        for name, record in self.services.items():
            _, colon, port = record.partition(":")
            if not record.startswith("_") and not (colon and port.isdigit() and 0 < int(port) < 65536):
                raise ValueError(f'services.{name}: "{record}" is neither an SRV name (_http._tcp.web) nor HOST:PORT')
        for one in self.nameservers:
            address, number = _place(one)
            ipaddress.ip_address(address)
            if not 0 < number < 65536:
                raise ValueError(f'nameservers: "{one}" has no valid port')


class DnsSource:
    """A name that does not exist is absent from its layer; one without such records is an empty list."""

    options_class: ClassVar[type[Any]] = DnsOptions

    def __init__(self, options: DnsOptions, context: SourceContext) -> None:
        optional.require("dns", "dns", "dns", "python3-dnspython")
        self._options = options
        self._context = context
        self._closed = False

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        deadline = time.monotonic() + self._context.timeout_seconds
        ask = self._resolver()
        read = []
        for layer in layers:
            found = {
                name: instances
                for name, record in self._options.services.items()
                if (instances := self._instances(ask, record, layer, deadline)) is not None
            }
            tree = {"services": found} if found else None
            read.append(Layer(layer, tree, key_tree.digest(repr(found))))
        return Snapshot(tuple(read), key_tree.combined(read))

    def _instances(self, ask: Any, record: str, domain: str, deadline: float) -> list[dict[str, Any]] | None:
        host, _, port = record.partition(":")
        name = f"{host}.{domain}" if domain and not host.endswith(".") else host
        if not record.startswith("_"):
            addresses = self._addresses(ask, name, deadline)
            return None if addresses is None else [_instance(one, int(port), name, {}) for one in addresses]
        answer = self._query(ask, name, "SRV", deadline)
        if answer is None:
            return None
        found = []
        for srv in answer:
            target = srv.target.to_text().rstrip(".")
            if not target:  # RFC 2782: the service is decidedly not available
                continue
            meta = {"priority": str(srv.priority), "weight": str(srv.weight)}
            addresses = self._addresses(ask, f"{target}.", deadline) or []
            found += [(srv.priority, -srv.weight, _instance(one, srv.port, target, meta)) for one in addresses]
        if answer and not found and any(srv.target.to_text() != "." for srv in answer):
            raise SourceInvalid(f"{name}: no target of its SRV records has an address")
        found.sort(key=lambda one: (one[0], one[1], one[2]["address"], one[2]["port"]))
        return [instance for _, _, instance in found]

    def _addresses(self, ask: Any, name: str, deadline: float) -> list[str] | None:
        found = [self._query(ask, name, kind, deadline) for kind in ("A", "AAAA")]
        if found[0] is None:
            return None
        return sorted(record.address for records in found if records for record in records)

    def _query(self, ask: Any, name: str, kind: str, deadline: float) -> list[Any] | None:
        """The records, [] where the name has none of this kind, None where there is no such name."""
        import dns.exception
        import dns.resolver

        left = deadline - time.monotonic()
        if left <= 0 or self._closed:
            raise SourceUnreachable(f"{name}: the nameservers do not answer in time")
        try:
            return list(ask.resolve(name, kind, lifetime=left, search=False, raise_on_no_answer=False).rrset or ())
        except dns.resolver.NXDOMAIN:
            return None
        except (dns.exception.SyntaxError, dns.exception.FormError, dns.name.LabelTooLong, dns.name.EmptyLabel):
            raise SourceInvalid(f"{name} is no domain name, or its answer is malformed") from None
        except (dns.exception.DNSException, OSError) as error:
            what = "do not answer in time" if isinstance(error, dns.exception.Timeout) else f"fail{_failure(error)}"
            hint = "ask with `dig`; check nameservers or /etc/resolv.conf"
            raise SourceUnreachable(f"{name}: the nameservers {what}", hint=hint) from None

    def _resolver(self) -> Any:
        import dns.resolver

        try:
            resolver = dns.resolver.Resolver(configure=not self._options.nameservers)
        except dns.resolver.NoResolverConfiguration:
            raise SourceUnreachable("/etc/resolv.conf names no nameserver") from None
        if self._options.nameservers:
            servers = [_place(one) for one in self._options.nameservers]
            resolver.nameservers = [address for address, _ in servers]
            resolver.nameserver_ports = dict(servers)
        resolver.timeout = max(0.5, self._context.timeout_seconds / 3)
        return resolver

    def close(self) -> None:
        self._closed = True


def _failure(error: BaseException) -> str:
    """The answer of a nameserver that did answer, such as SERVFAIL."""
    import dns.rcode

    errors = getattr(error, "kwargs", {}).get("errors", ())
    codes = {dns.rcode.to_text(one[4].rcode()) for one in errors if len(one) > 4 and one[4] is not None}
    return f" with {', '.join(sorted(codes))}" if codes else ""


def _place(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":") if text.count(":") == 1 or "]:" in text else (text, "", "53")
    return address.strip("[]"), int(port) if port.isdigit() else 0


def _instance(address: str, port: int, node: str, meta: dict[str, str]) -> dict[str, Any]:
    return {"address": address, "port": port, "node": node.rstrip("."), "tags": [], "meta": meta}
