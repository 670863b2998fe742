"""The built site, and the hooks that build it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def mkdocs_build(folder: Path, site: Path) -> subprocess.CompletedProcess:
    """`mkdocs build --strict` of the mkdocs.yml in `folder`, in a process of its own: its warnings are not pytest's."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="session")
def build():
    return mkdocs_build


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The project's site: the folder HAMFLOW_SITE, where it was built already, or a build made here."""
    if folder := os.environ.get("HAMFLOW_SITE"):
        assert Path(folder, "index.html").is_file(), f"HAMFLOW_SITE={folder} holds no built site: no index.html"
        return Path(folder)
    folder = tmp_path_factory.mktemp("site")
    result = mkdocs_build(ROOT, folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture(scope="session")
def hooks() -> Path:
    return ROOT / "docs" / "_hooks"


@pytest.fixture(scope="session")
def load_hook(hooks):
    def load(name):
        spec = importlib.util.spec_from_file_location(f"docs_hook_{name}", hooks / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
