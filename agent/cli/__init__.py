"""The command line: `main` parses it, `output` prints, and each command is one module named after it."""

__all__ = ["main"]
