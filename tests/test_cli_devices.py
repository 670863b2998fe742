"""The commands on two devices, in a process of its own: the same rows as on one."""

import os
import subprocess
import sys

import numpy as np
from cli_models import crooked

from hamflow import cli

COMMANDS = (
    ["sample", "--seeds", "0-7", "--steps", "4", "--batch", "1", "--outdir", "1"],
    ["sample", "--seeds", "0-7", "--steps", "4", "--batch", "3", "--outdir", "3"],
    ["sample", "--seeds", "0-7", "--steps", "4", "--batch", "8", "--outdir", "8"],
    ["likelihood", "--data", "points.npz", "--probes", "4", "--steps", "4", "--batch", "3", "--out", "values.npz"],
)


def test_two_devices(tmp_path, monkeypatch, capsys):
    network = crooked(tmp_path / "model.safetensors", num_classes=3)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "points.npz", data=rng.normal(size=(7, 2)), labels=rng.integers(0, 3, 7))
    commands = [[name, "--network", str(network), *flags] for name, *flags in COMMANDS]
    code = (
        "import jax; from hamflow.cli import main; assert jax.device_count() == 2; "
        f"assert [main(c) for c in {commands}] == [0] * {len(commands)}"
    )
    (two, one) = (tmp_path / "two", tmp_path / "one")
    for folder in (two, one):
        folder.mkdir()
        (folder / "points.npz").write_bytes((tmp_path / "points.npz").read_bytes())
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run([sys.executable, "-c", code], cwd=two, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(one)
    assert [cli.main(command) for command in commands[2:]] == [0, 0]
    capsys.readouterr()
    for ours, theirs in (("8/samples", "1/samples"), ("8/samples", "3/samples"), ("8/samples",) * 2, ("values",) * 2):
        with np.load(one / f"{ours}.npz") as expected, np.load(two / f"{theirs}.npz") as found:
            assert set(expected) == set(found)
            for name in expected:
                np.testing.assert_allclose(found[name], expected[name], atol=1e-5, rtol=1e-5)
