"""Jinja2 templates: run config in, bytes out, with a record of every key that was read."""

__all__ = ["fake_secrets", "renderer", "static_analysis"]
