"""parbake: pulls run config into an immutable image, renders it, acts on units and ships logs off the box."""

__version__ = "0.1.0"
