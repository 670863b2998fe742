"""How fast pictures of 64x64 reach the training loop: batches of 256 from every form of a data set.

    python benchmarks/data_feed.py --repeats 7
    python benchmarks/data_feed.py --profile png       # where the time of one thread goes, by function

The pictures are the embedded faces with noise of six levels, which makes PNGs of the size that photographs have. All
forms are read in turn, so that what else the machine does falls on each alike. Cold is the first epoch, every picture
decoded; warm are the two after it, from memory. Target: 2,000 images/s on two cores from the zip and from the array.
Results are in `benchmarks/NOTES.md`.
"""

import argparse
import contextlib
import cProfile
import io
import os
import pstats
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hamflow.data import AbstractImages, batches, embedded_faces, fingerprint, open_images, save_images

BATCH, PICTURES, SIDE = 256, 4096, 64
PNG_LEVELS = {"png": 6, "png, not compressed": 0}


def pictures() -> np.ndarray:
    faces = open_images(embedded_faces(), SIDE)
    rng = np.random.default_rng(0)
    clean = np.stack([faces.read(i % len(faces)) for i in range(PICTURES)]).astype(np.float32)
    return np.clip(clean + 6 * rng.standard_normal(clean.shape, np.float32), 0, 255).astype(np.uint8)


def write(folder: Path) -> dict[str, Path]:
    """The same pictures in every form."""
    images = pictures()
    np.savez(folder / "set.npz", images=images)
    np.save(folder / "set.npy", images)
    kinds: dict[str, dict[str, Any]] = {
        name: {"format": "PNG", "compress_level": level} for name, level in PNG_LEVELS.items()
    }
    kinds["jpeg"] = {"format": "JPEG", "quality": 95}
    for name, options in kinds.items():
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for i, image in enumerate(images):
                buffer = io.BytesIO()
                Image.fromarray(image.transpose(1, 2, 0)).save(buffer, **options)
                archive.writestr(f"{i:05d}.{options['format'].lower()}", buffer.getvalue())
    save_images(open_images(folder / "set.npz"), folder / "save_images.zip")
    paths = [*(folder / f"{name}.zip" for name in (*kinds, "save_images")), folder / "set.npz", folder / "set.npy"]
    return {path.stem if path.suffix == ".zip" else path.suffix: path for path in paths}


def rates(source: AbstractImages, *, skip: int = 0, epochs: int = 3, **options: Any) -> tuple[float, float, float]:
    """Images a second of the first epoch (after `skip` batches of it) and of the others, and of the first epoch the
    time of this process on the cores, in microseconds a picture, which other work on the machine does not change."""
    per_epoch = PICTURES // BATCH
    start, start_busy, busy = time.perf_counter(), time.process_time(), 0.0
    with contextlib.closing(batches(source, BATCH, seed=0, **options)) as stream:
        marks = []
        for step in range(per_epoch * epochs):
            next(stream)
            if step + 1 == skip:
                start = time.perf_counter()
            marks.append(time.perf_counter())
            if step + 1 == per_epoch:
                busy = (time.process_time() - start_busy) / PICTURES * 1e6
    cold = (per_epoch - skip) * BATCH / (marks[per_epoch - 1] - start)
    if epochs == 1:
        return cold, float("nan"), float("nan")
    return cold, (epochs - 1) * PICTURES / (marks[-1] - marks[per_epoch - 1]), busy


def profile(source: AbstractImages) -> None:
    profiler = cProfile.Profile()
    source.read(0)
    profiler.runcall(lambda: [source.read(i) for i in range(PICTURES)])
    pstats.Stats(profiler).sort_stats("tottime").print_stats(18)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--profile", metavar="FORM", help="png, jpeg, .npz, .npy ...")
    parser.add_argument("--workers", action="store_true", help="two worker processes too (they take seconds to start)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        forms = write(Path(folder))
        if options.profile:
            return profile(open_images(forms[options.profile]))
        ways: dict[str, dict[str, Any]] = {"0 threads": {"num_threads": 0}, "threads": {}}
        if options.workers:
            ways["2 processes"] = {"num_workers": 2, "skip": 4, "epochs": 1}
        found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
        loads = []
        for _ in range(options.repeats):
            loads.append(os.getloadavg()[0])
            for form, path in forms.items():
                for way, how in ways.items():
                    found.setdefault((form, way), []).append(rates(open_images(path), **how))
        kilobytes = {form: path.stat().st_size / PICTURES / 1e3 for form, path in forms.items()}
        print(f"{PICTURES} pictures of {SIDE}x{SIDE}, batches of {BATCH}, {os.cpu_count()} cores, images/s")
        print(f"{options.repeats} repeats: median (least, most); load {min(loads):.1f} to {max(loads):.1f}")
        for (form, way), values in found.items():
            cold, warm, busy = (
                f"{np.median(column):>9,.0f} ({min(column):,.0f}, {max(column):,.0f})"
                for column in np.transpose(values)
            )
            print(f"{form:<20}{kilobytes[form]:5.1f} kB  {way:<11} cold {cold:<26} warm {warm:<27} busy {busy} us")
        for form in ("png", ".npy"):
            source = open_images(forms[form])
            start = time.process_time()
            fingerprint(source, full=True)
            seconds = time.process_time() - start
            print(
                f"fingerprint(full=True) of {form}: {forms[form].stat().st_size / seconds / 1e6:,.0f} MB a busy second"
            )


if __name__ == "__main__":
    main()
