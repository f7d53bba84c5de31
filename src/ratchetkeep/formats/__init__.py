"""Bytes <-> model, one module a format; pure, no I/O."""

from ._base import Encoded, Format
from ._shape import Loss

__all__ = ["Encoded", "Format", "Loss"]
