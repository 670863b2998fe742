"""`hamflow train` in two processes: a picture that one cannot read, a state that is spread; afterwards in one."""

import io
import json
import os
import socket
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
from PIL import Image

import hamflow as hf
from hamflow import cli
from hamflow.data import epoch_order

NUM_IMAGES, BATCH = 1060, 530  # the first 1024 are read before a folder is made


def together(*arguments):
    """The command in both processes: what each says, and its status."""
    with socket.socket() as server:
        server.bind(("localhost", 0))
        port = server.getsockname()[1]
    join = ["--coordinator", f"localhost:{port}", "--num-processes", "2", "--process-id"]
    command = [sys.executable, "-m", "hamflow.cli", "train", "faces", *map(str, arguments), *join]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    children = [
        subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        for i in range(2)
    ]
    return [(*child.communicate(timeout=240), child.returncode) for child in children]


def lines_of(folder):
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


def test_no_step_is_lost_when_one_cannot_read_and_the_run_goes_on_in_any_number_of_processes(tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    rng = np.random.default_rng(0)
    last = epoch_order(0, 0, NUM_IMAGES)[-1]  # in the second batch, in the rows of the second process
    for i in range(NUM_IMAGES):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(file, "PNG")
        whole = file.getvalue()
        (data / f"{i:04}.png").write_bytes(whole[: len(whole) // 2] if i == last else whole)
    small = ["--resolution", 8, "--channels", 4, "--multipliers", 1, "--blocks", 1, "--optimizer", "adam"]
    small += ["--num-samples", 4, "--sampling-steps", 1, "--held-out", 0, "--save-every", 1]
    outdir = ["--data", data, "--batch", BATCH, "--duration", 2 * BATCH * 1e-6, "--outdir", tmp_path / "runs"]
    ends = together(*small, *outdir)
    (folder,) = (tmp_path / "runs").iterdir()
    for _, err, status in ends:
        assert status == 1, err
        assert f"Process 1 could not read its rows of a batch: UnreadableImageError: {last:04}.png in {data}" in err
        assert "The training is saved after 1 step." in err
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["1"]

    # In both again, half of the large arrays in each; and then in one.
    ends = together("--resume", folder, "--skip-corrupt", "--mesh", "data=1,fsdp=2")
    assert [status for *_, status in ends] == [0, 0], ends
    assert "skipped 1 picture" in ends[0][0]
    assert [line for line in ends[1][0].splitlines() if "Gloo" not in line] == []  # the first speaks for both
    assert [line["images"] for line in lines_of(folder)] == [BATCH, 2 * BATCH]
    assert hf.load(folder / "model.safetensors")(0.3, jnp.zeros((3, 8, 8))).shape == (3, 8, 8)
    assert cli.main(["train", "faces", "--resume", str(folder), "--duration", str(3 * BATCH * 1e-6)]) == 0
    assert "resumed" in capsys.readouterr().out
    assert [line["step"] for line in lines_of(folder)] == [0, 1, 2]
