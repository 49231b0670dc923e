"""What parbake keeps in /var/lib/parbake: records, generations, and the last good run config."""

__all__ = ["generations", "last_good", "records", "store"]
