"""The numba decorator."""

from hmr.render import kernels as module


def test_functions_compile_where_no_cache_can_be_written(monkeypatch):
    real = module.njit

    def njit_without_a_folder(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(module, "njit", njit_without_a_folder)
    assert module.compiled(lambda x: x + 1)(1) == 2
