"""A PNG or JPEG file of any size and colour -> the small greyscale image that a network sees."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softargmax import _checks
from softargmax.data._arrays import existing_file, listed
from softargmax.typing import Array

if TYPE_CHECKING:
    from PIL import Image

PICTURE_FILES = (".png", ".jpg", ".jpeg")
LONGEST = 65_535  # pixels a side: what a JPEG can have
_OTHERS = (  # what else a picture may be: where it says so, what it says there, its name
    (0, b"GIF8", "GIF"),
    (8, b"WEBP", "WebP"),
    (4, b"ftyp", "HEIC, AVIF or video"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"%PDF", "PDF"),
)


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture, upright and in shades of grey.

    pixels : (H, W) uint8, 0 is black and 255 white.
    source : the file it came from.
    n_frames : how many pictures the file holds; this is the first.
    """

    pixels: Array
    source: str
    n_frames: int


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read a PNG or JPEG file, whatever its extension, as greyscale (H, W) uint8.

    Colours become their luminance, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601); 16-bit greys are divided by 257, 16-bit
    colours lose their low byte; what is transparent shows white; the orientation that a camera wrote is applied; of an
    animation the first frame is read. Colour profiles are not looked at.

    Raises ValueError naming the file: it is missing, empty, damaged, cut short, or of another kind; it has more than
    65,535 pixels a side or more than Pillow takes (`PIL.Image.MAX_IMAGE_PIXELS`, 89 million).

    >>> import os, tempfile, numpy as np
    >>> from PIL import Image
    >>> path = os.path.join(tempfile.mkdtemp(), "red.png")
    >>> Image.new("RGB", (3, 2), "red").save(path)
    >>> read_picture(path).pixels
    array([[76, 76, 76],
           [76, 76, 76]], dtype=uint8)
    """
    file = Path(path)
    if not file.is_file() or file.stat().st_size == 0:
        existing_file(file, PICTURE_FILES)  # says what is wrong
    image = _decoded(file, file.read_bytes())
    return Picture(_grey(_upright(image)), str(file), int(getattr(image, "n_frames", 1)))


def fitted(picture: Picture, size: tuple[int, int], *, invert: bool = False) -> Array:
    """The picture as (h, w) uint8, `size` = (h, w): nothing cut off, nothing stretched.

    It is padded on both sides to the proportions of `size`, with the median of its own outermost pixels; then every
    new pixel is the average of the area it covers. A picture that has the size already is returned bit for bit.
    `invert` makes white black: for ink on paper shown to a network that learned bright shapes on a black ground.

    Raises ValueError unless `size` is two positive integers.

    >>> import numpy as np
    >>> halves = Picture(np.array([[0, 0, 200, 200]] * 4, np.uint8), "", 1)
    >>> fitted(halves, (2, 2))
    array([[  0, 200],
           [  0, 200]], dtype=uint8)
    """
    if len(size) != 2 or not all(isinstance(n, (int, np.integer)) and n > 0 for n in size):
        raise ValueError(f"size must be two positive integers, height and width; got {size!r}")
    (height, width), (h, w) = picture.pixels.shape, (int(size[0]), int(size[1]))
    down = _shares(height, max(height, round(width * h / w)), h)
    across = _shares(width, max(width, round(height * w / h)), w)
    padding = 1 - np.outer(down.sum(axis=1), across.sum(axis=1))
    ground = np.median(_border(picture.pixels))
    # two narrow matrices, so that a strip of 5000 x 3 never becomes a square of 5000 x 5000
    averages = down @ picture.pixels.astype(np.float32) @ across.T + ground * padding
    pixels = np.rint(averages).astype(np.uint8)
    return 255 - pixels if invert else pixels


def border_mean(images: Array) -> float:
    """Mean of the outermost pixels of one image (H, W), or of all of N images (N, H, W): in [0, 255] for uint8.

    High means shapes on a white ground, low on a black one.

    Raises ValueError for another number of dimensions, or images without a pixel.

    >>> import numpy as np
    >>> border_mean(np.array([[0, 0, 0], [0, 255, 0], [0, 0, 8]], np.uint8))
    1.0
    """
    array = _checks.real_array("images", images)
    if array.ndim not in (2, 3) or array.size == 0:
        raise ValueError(f"images must have shape (H, W) or (N, H, W), with a pixel at least; got {array.shape}")
    return float(_border(array).mean(dtype=np.float64))


def pictures_in(paths: Sequence[Path]) -> list[Path]:
    """Files as they are; for a folder its .png, .jpg and .jpeg files, sorted by name.

    Folders in a folder are not looked into, and files whose name begins with a dot are left out. Raises ValueError for
    a folder without any picture.

    >>> pictures_in([Path("cat.png"), Path("dog.jpg")]) == [Path("cat.png"), Path("dog.jpg")]
    True
    """
    return [picture for path in paths for picture in (_inside(Path(path)) if Path(path).is_dir() else [Path(path)])]


def _inside(folder: Path) -> list[Path]:
    files = (path for path in folder.iterdir() if path.suffix.lower() in PICTURE_FILES)
    pictures = sorted(path for path in files if path.is_file() and not path.name.startswith("."))
    if not pictures:
        raise ValueError(
            f"there is no picture ({listed(PICTURE_FILES)}) in the folder {folder}; give a folder that holds some "
            "(folders inside it are not looked into), or the files themselves"
        )
    return pictures


def _decoded(file: Path, content: bytes) -> Image.Image:
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise ModuleNotFoundError('pictures need the app extra: pip install "softargmax[app]"') from None

    def opened() -> Image.Image:
        return Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # notes of a camera that are not as they should be
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = opened()
            if max(image.size) > LONGEST:
                raise Image.DecompressionBombError
            image.verify()  # the check sums of a PNG, which decoding does not look at; it closes the image
            image = opened()
            image.load()
    except MemoryError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(
            f"{file} is too large a picture: wanted at most {LONGEST:,} pixels a side and "
            f"{Image.MAX_IMAGE_PIXELS:,} in all; make it smaller first"
        ) from None
    except Exception as error:  # foreign bytes: the readers raise a dozen kinds
        raise ValueError(f"{file} {_what_is_wrong(content, error)}") from None
    if image.format == "PNG" and "transparency" in image.info:
        _scale_transparency(file, image, depth=content[24], colour=content[25])  # where every PNG says it
    return image


def _scale_transparency(file: Path, image: Image.Image, depth: int, colour: int) -> None:
    """The grey level that is transparent, on the scale of the pixels: Pillow leaves it on that of the file."""
    if colour == 0 and depth in (2, 4):
        image.info["transparency"] *= 255 // (2**depth - 1)
    elif colour == 2 and depth == 16:  # the pixels have 8 bits by now, which do not tell near colours apart
        raise ValueError(f"{file}: one of its 16-bit colours is transparent, which is not read; save it with 8 bits")


def _what_is_wrong(content: bytes, error: Exception) -> str:
    if content.startswith((b"\x89PNG", b"\xff\xd8")):
        from PIL import UnidentifiedImageError

        reason = "its beginning makes no sense" if isinstance(error, UnidentifiedImageError) else str(error)
        return f"is damaged or cut short ({reason.rstrip('.')}); save it again"
    for start, begins, kind in _OTHERS:
        if content.startswith(begins, start):
            return f"is a file of another kind ({kind}), whatever its name; only PNG and JPEG are read: save it as one"
    return "is no picture: it does not begin like a PNG or JPEG file (is it text?); save it as one"


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # as above
        return ImageOps.exif_transpose(image)


def _grey(image: Image.Image) -> Array:
    from PIL import Image

    clear: Any = image.info.get("transparency")
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to 8
        wide = np.asarray(image).astype(np.int64)
        grey = ((wide + 128) // 257).astype(np.uint8)
        return grey if clear is None else np.where(wide == clear, np.uint8(255), grey)
    if clear is not None or image.mode.endswith("A"):
        seen = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
    return np.array(image.convert("RGB").convert("L"))


def _border(images: Array) -> Array:
    """The outermost pixels, (n,) or (N, n)."""
    outermost = np.ones(images.shape[-2:], bool)
    outermost[1:-1, 1:-1] = False
    return images[..., outermost]


def _shares(old: int, padded: int, new: int) -> Array:
    """(new, old) float32: the share of each new pixel that each old one covers, where `padded` become `new`."""
    edges = np.linspace(0, padded, new + 1)[:, None]
    left = (padded - old) // 2 + np.arange(old)
    covered = np.minimum(edges[1:], left + 1) - np.maximum(edges[:-1], left)
    return (np.maximum(covered, 0) * (new / padded)).astype(np.float32)
