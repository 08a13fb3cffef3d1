"""The only training loop and its parts: schedules, objective, norm statistics, checkpoints, the run record."""

from timm_jackpot.training.checkpoint import Checkpoints, State
from timm_jackpot.training.flags import (
    UNPUBLISHED,
    OptimFlags,
    OutputFlags,
    RunFlags,
    TrainFlags,
    learning_rate,
    make_optimizer,
    prepare_model,
    total_steps,
    uses_channels_last,
)
from timm_jackpot.training.loop import fit
from timm_jackpot.training.mixing import Mixer, make_mixer
from timm_jackpot.training.norm_statistics import (
    CALIBRATION_IMAGES,
    average_norm_statistics,
    recalibrate,
    reestimate_norm_statistics,
)
from timm_jackpot.training.objective import Objective
from timm_jackpot.training.record import Record, read_record
from timm_jackpot.training.run_state import CHECKPOINTS, RunState, check_run_folder, open_run, run_accelerator
from timm_jackpot.training.run_tensors import RunTensors
from timm_jackpot.training.schedule import cosine, cubic_ramp

__all__ = [
    "CALIBRATION_IMAGES",
    "CHECKPOINTS",
    "UNPUBLISHED",
    "Checkpoints",
    "Mixer",
    "Objective",
    "OptimFlags",
    "OutputFlags",
    "Record",
    "RunFlags",
    "RunState",
    "RunTensors",
    "State",
    "TrainFlags",
    "average_norm_statistics",
    "check_run_folder",
    "cosine",
    "cubic_ramp",
    "fit",
    "learning_rate",
    "make_mixer",
    "make_optimizer",
    "open_run",
    "prepare_model",
    "read_record",
    "recalibrate",
    "reestimate_norm_statistics",
    "run_accelerator",
    "total_steps",
    "uses_channels_last",
]
