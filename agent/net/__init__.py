"""Connections to other hosts: HTTP, TLS, sockets, their deadlines and credentials."""

__all__ = ["credentials", "http_client", "sockets", "tls"]
