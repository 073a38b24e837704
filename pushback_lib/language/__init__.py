"""The small language of the bundled model: its world, its requests, and what base and adapter learn from."""

from .corpus import draw_requests, friction_records
from .requests import CONTRAST_KINDS, FRICTION_KINDS, KINDS

__all__ = ["CONTRAST_KINDS", "FRICTION_KINDS", "KINDS", "draw_requests", "friction_records"]
