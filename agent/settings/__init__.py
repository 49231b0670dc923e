"""The settings: TOML files in, one frozen `Settings` out, or one error with every problem."""

__all__ = ["interpolation", "loader", "models", "plugins", "quantities", "schema", "source_lines", "urls"]
