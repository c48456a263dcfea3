"""Diffusion-based image anomaly detection with a compiled core."""

__version__ = "0.1.0"

from . import data as data
from . import methods as methods
from . import metrics as metrics
from . import models as models
from . import noise as noise
from . import ops as ops
from . import realtime as realtime
from . import telemetry as telemetry
from .checkpoint import CheckpointError as CheckpointError
from .config import Config as Config
from .data import Augment as Augment
from .data import DataError as DataError
from .data import Framing as Framing
from .detector import Detector as Detector
from .execution import Execution as Execution
from .forward import add_noise as add_noise
from .models import UNet as UNet
from .models import UNetConfig as UNetConfig
from .noise import noise_like as noise_like
from .realtime import RealtimeScorer as RealtimeScorer
from .saved import load as load
from .schedule import Schedule as Schedule
from .scoring import Scoring as Scoring
from .training import Training as Training
