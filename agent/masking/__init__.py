"""Masking of secrets in text, and the mask file of the shipper."""

__all__ = ["mask_file", "masker"]
