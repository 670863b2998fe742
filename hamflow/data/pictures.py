"""From the bytes of one picture file to a uint8 array (3, height, width).

Every picture becomes 8-bit RGB, and each step is a decision:

- grey is repeated to three channels, 1-bit is 0 or 255, a palette is looked up;
- alpha is composited on white, before any resampling;
- the EXIF orientation is applied, so a phone's photograph stands upright;
- the largest centred square is cut out, then resized with Lanczos;
- colour profiles are ignored: the numbers in the file are the data;
- 16 bits a channel, CMYK and animations are refused, never converted in silence.

What is damaged is refused as far as a format can tell. A PNG has a checksum for each of its parts, and all are compared
here (Pillow passes over those of the pixels). JPEG, WebP and BMP have none: one that was cut short is refused, one with
a wrong byte within its pixels becomes another picture. The checksum of a zip sees that, and
`fingerprint(source, full=True)`.
"""

import io
import warnings
import zlib

import numpy as np
from PIL import Image

# Metadata that cannot be read say nothing about the pixels. The filter stands here and not around a call, since the
# filters of warnings belong to all threads.
warnings.filterwarnings("ignore", message="Corrupt EXIF data", category=UserWarning)

PICTURE_SUFFIXES = frozenset(
    [
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".dib"),
        *(".gif", ".tif", ".tiff", ".ppm", ".pgm", ".heic", ".avif"),  # of formats that are not read
    ]
)
"""What counts as a picture in a folder or a zip; those of a format that is not read are refused by name."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MAX_FILE_BYTES = 1 << 29
"""Files above are refused unread: they hold more than 8-bit pixels of the largest picture that Pillow opens."""

_ORIENTATION_TAG = 0x0112
_TURNS = {  # of EXIF 2.32, section 4.6.4
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MODES = frozenset(["1", "L", "LA", "P", "RGB", "RGBA"])
_MAX_SCANS = 200  # of a JPEG: a progressive one has about ten, and each passes over the whole picture
_BACKGROUND = (255, 255, 255, 255)


class UnreadableImageError(ValueError):
    """A file that is no 8-bit picture: cut short, damaged, empty, too large, or of a kind that is refused."""


def picture_size(data: bytes, where: str) -> tuple[int, int]:
    """Return (width, height) as the header states them; refuse what `decode_picture` would refuse by its header.

    `data` may be the first part of the file only. Raises `UnreadableImageError` that begins with `where`.
    """
    return _open(data, where).size


def decode_picture(data: bytes, where: str) -> Image.Image:
    """Decode a whole file to an upright RGB picture without alpha.

    Raises `UnreadableImageError` that begins with `where`, the name of the file as the user knows it.
    """
    image = _open(data, where)
    if image.format == "PNG":
        _compare_checksums(data, where)
    elif image.format in ("JPEG", "MPO") and (scans := data.count(b"\xff\xda")) > _MAX_SCANS:
        raise UnreadableImageError(
            f"{where} is a JPEG of {scans} scans, which takes as many times as long to decode; {_MAX_SCANS} are read. "
            f"Save it again, or {_LEAVE_OUT}."
        )
    try:
        image.load()
        return rgb_picture(_upright(image))
    except MemoryError:
        raise
    except Exception as error:  # a decoder fed with damaged bytes raises almost anything
        raise _damaged(where, error) from error


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its orientation tag says.

    Only that tag is looked at. Pillow's own function writes all tags again, and fails where another one is mistyped,
    which is no damage of the pixels.
    """
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # metadata that cannot be read at all say nothing
        orientation = None
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def rgb_picture(image: Image.Image) -> Image.Image:
    """Return `image` as RGB: grey repeated, a palette looked up, alpha composited on white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    paper = Image.new("RGBA", image.size, _BACKGROUND)
    return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")


def square_picture(image: Image.Image, resolution: int) -> Image.Image:
    """Cut the largest centred square out of `image` and resize it to `resolution` pixels with Lanczos.

    Where the margin is odd, the smaller half is cut at the left and at the top. A picture that already has this size
    comes back untouched.
    """
    width, height = image.size
    side = min(width, height)
    if width != height:
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if side != resolution:
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS, reducing_gap=None)
    return image


def picture_array(image: Image.Image) -> np.ndarray:
    """Return an RGB picture as a contiguous uint8 array (3, height, width)."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _open(data: bytes, where: str) -> Image.Image:
    if not data:
        raise UnreadableImageError(f"{where} is empty (0 bytes). Copy it again, or {_LEAVE_OUT}.")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(where) from error
    except Image.UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise UnreadableImageError(
            f"{where} is not a picture that can be read ({known}): it is damaged, or of another format. "
            f"Convert it, or {_LEAVE_OUT}."
        ) from error
    except Exception as error:
        raise _damaged(where, error) from error
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:  # where the warning was not an error
        raise _too_large(where)
    if image.format == "PNG" and data[12:16] != b"IHDR":
        raise _damaged(where, "its first chunk is not IHDR")
    # Pillow opens a 16-bit colour PNG as 8-bit RGB without a word; the bit depth is the 25th byte of the file.
    if image.mode in ("I", "F") or image.mode.startswith("I;16") or (image.format == "PNG" and data[24] == 16):
        raise UnreadableImageError(
            f"{where} has 16 bits a channel; 8 are read. Convert it on purpose, for instance with "
            f"`magick in.png -depth 8 out.png`, or {_LEAVE_OUT}."
        )
    if image.mode not in _MODES:
        raise UnreadableImageError(
            f"{where} is {image.mode}, not RGB or grey. Convert it with its colour profile, for instance with "
            f"`magick in.jpg -colorspace sRGB out.png`, or {_LEAVE_OUT}."
        )
    # A phone's MPO is a JPEG with a second view behind it: the first is the photograph.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise UnreadableImageError(f"{where} is an animation. Export one frame of it, or {_LEAVE_OUT}.")
    return image


def _compare_checksums(data: bytes, where: str) -> None:
    """Refuse a PNG with a wrong byte in any chunk, or without its end."""
    position = 8
    while True:
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        end = position + 8 + length
        if len(data) < end + 4:
            raise _damaged(where, "the end of the PNG is missing")
        if zlib.crc32(memoryview(data)[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise _damaged(where, f"the checksum of its chunk {kind.decode('ascii', 'replace')!r} does not fit")
        if kind == b"IEND":
            return
        position = end + 4


_LEAVE_OUT = "pass skip_corrupt=True to leave such files out"


def unreadable(where: str, error: Exception, remedy: str = "Put it back") -> UnreadableImageError:
    """The error of a file whose bytes cannot be had at all."""
    # The text of an OSError has the path in it, which `where` says already.
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return UnreadableImageError(f"{where} cannot be read ({reason}). {remedy}, or {_LEAVE_OUT}.")


def too_long(where: str, size: int) -> UnreadableImageError:
    """The error of a file that is not even read."""
    return UnreadableImageError(
        f"{where} has {size} bytes; a picture has at most {MAX_FILE_BYTES}. Make it smaller, or {_LEAVE_OUT}."
    )


def _damaged(where: str, error: Exception | str) -> UnreadableImageError:
    return UnreadableImageError(f"{where} is cut short or damaged ({error}). Copy it again, or {_LEAVE_OUT}.")


def _too_large(where: str) -> UnreadableImageError:
    return UnreadableImageError(
        f"{where} claims more than {Image.MAX_IMAGE_PIXELS} pixels, the limit against decompression bombs "
        f"(PIL.Image.MAX_IMAGE_PIXELS). Make it smaller, or {_LEAVE_OUT}."
    )
