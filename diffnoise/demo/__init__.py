"""A small anomaly detection data set made from three CC0 photographs, and a detector trained on it."""

from pathlib import Path

from .defects import DEFECTS as DEFECTS
from .defects import build as build
from .defects import draw as draw

DETECTOR = Path(__file__).parent / "detector"
"""Folder of the pretrained detector; `python -m diffnoise.demo.train` makes it anew."""
