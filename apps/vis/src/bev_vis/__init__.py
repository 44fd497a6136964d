"""Pictures of what a bird's-eye-view detector sees."""

from .compose import Layout, render_frame
from .frame import Boxes, Camera, Frame
from .render import RenderOptions, render

__all__ = ["Boxes", "Camera", "Frame", "Layout", "RenderOptions", "render", "render_frame"]
