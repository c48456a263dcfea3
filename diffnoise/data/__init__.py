"""Images on disk, as network input and back: samples, pixels, frames, augmentation."""

from .arrays import to_images as to_images
from .augment import Augment as Augment
from .errors import DataError as DataError
from .framing import Framing as Framing
from .framing import Placement as Placement
from .image import colour_channels as colour_channels
from .image import read_image as read_image
from .image import read_mask as read_mask
from .listing import Sample as Sample
from .samples import find_categories as find_categories
from .samples import find_samples as find_samples
