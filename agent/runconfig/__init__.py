"""The run config: layers merged, then checked against the contract. Pure."""

__all__ = ["contract", "digest", "merge"]
