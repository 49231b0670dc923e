"""The run config: layers are merged, then checked against the contract. Pure."""

__all__ = ["contract", "digest", "merge"]
