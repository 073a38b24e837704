"""Fine-tuning with QLoRA, and planning it (notebook 03)."""

from .plan import Planner
from .progress import LossPlot, snapshots
from .run import make_trainer, save_adapter, train_adapter, training_records

__all__ = ["LossPlot", "Planner", "make_trainer", "save_adapter", "snapshots", "train_adapter", "training_records"]
