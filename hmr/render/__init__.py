"""Renderers with one protocol (`hmr.types.Renderer`), and pictures drawn from their frames."""

from __future__ import annotations

from hmr.types import Renderer

__all__ = ["RENDERERS", "load_renderer"]

RENDERERS = ("raster", "pyrender")


def load_renderer(name: str = "raster") -> Renderer:
    """A renderer by name: "raster" (numba, no system dependency) or "pyrender" (needs OpenGL).

    Raises:
        ValueError: the name is not one of `RENDERERS`.
        hmr.render.gl.OpenGLUnavailable: pyrender is requested, and no OpenGL context can be created.
    """
    if name == "raster":
        from hmr.render.raster import RasterRenderer

        return RasterRenderer()
    if name == "pyrender":
        from hmr.render.gl import PyrenderRenderer

        return PyrenderRenderer()
    raise ValueError(f"no renderer is called {name!r}; available are {', '.join(RENDERERS)}")
