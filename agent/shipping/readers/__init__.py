"""The readers: the journal and log files."""
