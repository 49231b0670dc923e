"""`parbake run`: the loop, what it watches, and the places of the targets."""

__all__ = ["loop"]
