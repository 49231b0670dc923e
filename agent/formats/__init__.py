"""Text formats: strict parsers that refuse what is ambiguous, and a TOML writer."""

__all__ = ["strict_json", "strict_yaml", "toml_writer"]
