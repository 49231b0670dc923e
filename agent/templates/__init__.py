"""Jinja2 templates: run config in, bytes out, with every key that was read."""

__all__ = ["fake_secrets", "renderer", "static_analysis"]
