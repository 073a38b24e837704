"""What all rooms share: records, files, rates with intervals, pictures."""

from .common import BASELINE, DATA, FRICTION, PushbackError
from .records import PERSONAS, Record, load_records, save_records, to_messages
from .show import picture
from .stats import Rate, wilson

__all__ = [
    "BASELINE",
    "DATA",
    "FRICTION",
    "PERSONAS",
    "PushbackError",
    "Rate",
    "Record",
    "load_records",
    "picture",
    "save_records",
    "to_messages",
    "wilson",
]
