"""The status that parbake publishes in /run/parbake: status.json, metrics.prom, and the status of the shipper."""

__all__ = ["report", "shipper"]
