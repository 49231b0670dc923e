"""Text formats: strict decoders of JSON and YAML, a TOML writer, and text for terminals."""

__all__ = ["strict_json", "strict_yaml", "terminal", "toml_writer"]
