"""Connections to other hosts: HTTP, TLS, sockets, their deadlines and credentials."""

__all__ = ["aws_session", "backoff", "credentials", "headers_file", "http_client", "sockets", "tls"]
