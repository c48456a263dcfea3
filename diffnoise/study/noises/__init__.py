"""The noise study of the DTU-Net paper (section 8 of its supplement): histograms, kurtosis, symmetry and spectra of every noise."""

from .measurement import as_json as as_json
from .measurement import check as check
from .measurement import measure as measure
from .measurement import run as run
from .statistics import Moments as Moments
from .statistics import asymmetry as asymmetry
from .statistics import histogram as histogram
from .statistics import radial_power as radial_power
from .statistics import spectral_slope as spectral_slope
from .sweeps import Setting as Setting
from .sweeps import settings as settings
