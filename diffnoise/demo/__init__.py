"""A small anomaly detection data set made from three CC0 photographs."""

from diffnoise.demo.defects import DEFECTS, build, draw

__all__ = ["DEFECTS", "build", "draw"]
