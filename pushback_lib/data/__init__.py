"""Training data: six personas debate requests, records are stored and checked (notebook 02)."""

from .card import plot_domains
from .checks import check_splits, load_splits
from .debate import Brief, DebateSettings, ScriptedChat, hold_debate, invent
from .make import make_records
from .probe import fit_probe

__all__ = [
    "Brief",
    "DebateSettings",
    "ScriptedChat",
    "check_splits",
    "fit_probe",
    "hold_debate",
    "invent",
    "load_splits",
    "make_records",
    "plot_domains",
]
