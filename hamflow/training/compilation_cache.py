"""Programs that were compiled once, kept on the disk for the next run."""

import os
import pathlib
import tempfile
import warnings

import jax

from hamflow._types import checked


@checked
def use_compilation_cache(folder: str | os.PathLike | None = None) -> pathlib.Path | None:
    """Keep what XLA compiles in a folder, so that a run which is resumed or repeated starts at once.

    - `folder`: made if it is not there. By default the one that jax was told of before (`JAX_COMPILATION_CACHE_DIR`),
      else `hamflow/xla` in the user's folder for caches: `$XDG_CACHE_HOME`, or `~/.cache`.

    Returns the folder. Where it cannot be written this warns, leaves jax without a cache, and returns None: a run is
    slower then, and no worse. Programs that take less than a second to compile are not kept, by jax's own rule
    (`jax_persistent_cache_min_compile_time_secs`). jax tells programs apart by their code, its own version, the
    compiler's flags and the devices; `$JAX_COMPILATION_CACHE_MAX_SIZE` bounds the folder.

    ```python
    use_compilation_cache()         # first of all, in a script
    ```
    """
    if folder is None:
        folder = jax.config.jax_compilation_cache_dir or _user_caches() / "hamflow" / "xla"  # pyright: ignore
    path = pathlib.Path(folder).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):  # only trying tells: permissions, a full disk
            pass
    except OSError as error:
        warnings.warn(
            f"{path} cannot be written ({error.strerror}), so compiled programs are not kept and every run compiles "
            "anew. Give use_compilation_cache another folder, or set JAX_COMPILATION_CACHE_DIR.",
            stacklevel=2,
        )
        _set(None)
        return None
    _set(str(path))
    return path


def _user_caches() -> pathlib.Path:
    folder = os.environ.get("XDG_CACHE_HOME", "")
    # By the standard a path that is not absolute is none.
    return pathlib.Path(folder) if os.path.isabs(folder) else pathlib.Path("~/.cache")


def _set(folder: str | None) -> None:
    if jax.config.jax_compilation_cache_dir != folder:  # pyright: ignore
        from jax.experimental.compilation_cache import compilation_cache

        jax.config.update("jax_compilation_cache_dir", folder)
        compilation_cache.reset_cache()  # jax looks once, when it first compiles, and keeps to what it found
