"""Pictures: sources that are read at random, batches in a restartable order, and what the jitted step does to them.

This room imports no physics. `AbstractImages` says what a data set is; a picture is uint8 (3, height, width).
"""

from hamflow.data.arrays import ArrayImages as ArrayImages
from hamflow.data.augment import random_flip as random_flip, to_float as to_float, to_uint8 as to_uint8
from hamflow.data.cache import CachedImages as CachedImages
from hamflow.data.faces import embedded_faces as embedded_faces
from hamflow.data.fingerprint import fingerprint as fingerprint
from hamflow.data.folder import FolderImages as FolderImages
from hamflow.data.grid import image_grid as image_grid, save_png as save_png
from hamflow.data.images import AbstractImages as AbstractImages
from hamflow.data.in_order import batches_in_order as batches_in_order
from hamflow.data.labels import MissingLabelsError as MissingLabelsError
from hamflow.data.loader import batches as batches, epoch_order as epoch_order, stream_indices as stream_indices
from hamflow.data.neighbours import (
    Memorisation as Memorisation,
    Neighbours as Neighbours,
    memorisation as memorisation,
    nearest_neighbours as nearest_neighbours,
    neighbour_grid as neighbour_grid,
)
from hamflow.data.opening import open_images as open_images
from hamflow.data.pictures import UnreadableImageError as UnreadableImageError
from hamflow.data.points import checkerboard as checkerboard, two_moons as two_moons
from hamflow.data.saving import save_images as save_images
from hamflow.data.split import SubsetImages as SubsetImages, split_source as split_source
from hamflow.data.zip import ZipImages as ZipImages
