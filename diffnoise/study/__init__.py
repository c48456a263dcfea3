"""The papers' tables and figures on any data, and what the noises are like."""

from .experiments import EXPERIMENTS as EXPERIMENTS
from .experiments import NOISES as NOISES
from .experiments import Cell as Cell
from .experiments import Experiment as Experiment
from .runner import Row as Row
from .runner import Study as Study
from .runner import run as run
