"""The host: systemd units, processes, the notify socket, journal logging, and safe file writes."""

__all__ = ["inotify", "journal_log", "process", "safe_files", "sd_notify", "units"]
