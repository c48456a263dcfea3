"""How well scores, anomaly maps and masks find what is wrong.

`evaluate` gives all of them; `detection` ranks (exact, over all thresholds), `streaming` does so in constant memory, `segmentation` judges masks,
`calibration` confidences, `bootstrap` gives intervals.
"""

from .bootstrap import Interval as Interval
from .bootstrap import bootstrap as bootstrap
from .bootstrap import pixel_intervals as pixel_intervals
from .calibration import expected_calibration_error as expected_calibration_error
from .detection import aupro as aupro
from .detection import f1_max as f1_max
from .detection import image_ap as image_ap
from .detection import image_auroc as image_auroc
from .detection import per_image_auroc as per_image_auroc
from .detection import pixel_ap as pixel_ap
from .detection import pixel_auroc as pixel_auroc
from .detection import pixel_f1_max as pixel_f1_max
from .detection import pixel_metrics as pixel_metrics
from .evaluation import Evaluation as Evaluation
from .evaluation import evaluate as evaluate
from .segmentation import Confusion as Confusion
from .segmentation import mask_metrics as mask_metrics
from .segmentation import otsu_threshold as otsu_threshold
from .streaming import PixelHistogram as PixelHistogram
