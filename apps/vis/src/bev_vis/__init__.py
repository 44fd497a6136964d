"""Pictures of what a bird's-eye-view detector sees."""

from .compose import render_frame
from .compose_voxels import render_voxels
from .frame import Boxes, Camera, Frame
from .options import RenderOptions
from .page import Layout
from .render import render

__all__ = ["Boxes", "Camera", "Frame", "Layout", "RenderOptions", "render", "render_frame", "render_voxels"]
