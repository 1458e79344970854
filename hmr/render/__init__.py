"""Drawing: renderers behind one protocol (`hmr.types.Renderer`), and the pictures made of their frames."""

from __future__ import annotations

from hmr.types import Renderer

__all__ = ["RENDERERS", "load_renderer"]

RENDERERS = ("raster", "pyrender")


def load_renderer(name: str = "raster") -> Renderer:
    """A renderer by name: "raster" (numba, needs nothing) or "pyrender" (needs a working OpenGL).

    Raises:
        ValueError: the name is not one of `RENDERERS`.
        hmr.render.gl.OpenGLUnavailable: pyrender was asked for on a machine where nothing can draw.
    """
    if name == "raster":
        from hmr.render.raster import RasterRenderer

        return RasterRenderer()
    if name == "pyrender":
        from hmr.render.gl import PyrenderRenderer

        return PyrenderRenderer()
    raise ValueError(f"no renderer is called {name!r}; there are {', '.join(RENDERERS)}")
