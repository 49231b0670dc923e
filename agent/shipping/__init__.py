"""The reader and sink contracts, and the table of sinks.

A reader reads from a position; a batch goes to a sink; the sink's checkpoint moves when it has acknowledged.
"""

from __future__ import annotations
