"""The papers' systems, each a configuration plus what only it needs."""

from .presets import PRESETS as PRESETS
from .presets import preset as preset
