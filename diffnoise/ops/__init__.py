"""The ops: pure functions of tensors, each with a reference in PyTorch and the fastest kernel the machine has."""

from . import _check as _check
from ._op import Op as Op
from ._op import registry as registry
from .anomaly_map import anomaly_map as anomaly_map
from .gaussian_noise import gaussian_noise as gaussian_noise
from .gmm_noise import gmm_noise as gmm_noise
from .group_norm_silu import group_norm_silu as group_norm_silu
from .interval_counts import interval_counts as interval_counts
from .kl_map import kl_map as kl_map
from .kts_noise import kts_noise as kts_noise
from .reverse_step import reverse_step as reverse_step
from .simplex_noise import simplex_noise as simplex_noise
from .simplex_noise_at import simplex_noise_at as simplex_noise_at
from .tsg_noise import tsg_noise as tsg_noise

# The kernels register themselves for the ops above.
from . import _native as _native  # isort: skip
from . import _cuda as _cuda  # isort: skip
from . import _triton as _triton  # isort: skip
