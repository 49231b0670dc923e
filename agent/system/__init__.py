"""The host: systemd units, processes, sd_notify, the journal, inotify, and safe file operations."""

__all__ = ["inotify", "journal_log", "process", "safe_files", "sd_notify", "stop_signals", "units"]
