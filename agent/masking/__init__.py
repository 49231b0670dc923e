"""Secrets masked in text: the masker, and the file that tells the shipper what to mask."""

__all__ = ["mask_file", "masker"]
