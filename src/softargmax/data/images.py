"""The name of an image data set -> its images with labels, split into train, calibration and test."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from softargmax import _checks
from softargmax.data._arrays import did_you_mean, listed, read_npz
from softargmax.typing import Array, IntArray

IMAGE_DATA: tuple[str, ...] = ("fashion-mnist-mini", "fashion-mnist", "mnist")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """N greyscale images with one label each.

    images : (N, 28, 28) uint8; 0 is the background, 255 the brightest ink.
    labels : (N,) int64 in [0, 10).
    """

    images: Array
    labels: IntArray

    def __len__(self) -> int:
        """N."""
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images in three disjoint parts: to train on, to calibrate on, to test on once.

    name : one of IMAGE_DATA.
    class_names : ten names, in class order.
    train, calibration, test : the parts.
    sha256 : hex digest of all images and labels in this order: what tells one version of the data from another.
    """

    name: str
    class_names: tuple[str, ...]
    train: ImageSet
    calibration: ImageSet
    test: ImageSet
    sha256: str


@dataclass(frozen=True)
class _File:
    """One IDX file as its authors publish it: its name without .gz, its array, the SHA-256 packed and unpacked."""

    stem: str
    shape: tuple[int, ...]
    packed: str
    unpacked: str

    @property
    def spellings(self) -> tuple[str, ...]:
        """The names it goes by."""
        dotted = self.stem.replace("-idx", ".idx")
        return (f"{self.stem}.gz", self.stem, f"{dotted}.gz", dotted)


@dataclass(frozen=True)
class _Source:
    """Where four IDX files are downloaded from: images and labels to train, then to test."""

    url: str
    class_names: tuple[str, ...]
    files: tuple[_File, _File, _File, _File]


_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_SOURCES = {
    "fashion-mnist": _Source(
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        _CLOTHES,
        (
            _File(
                "train-images-idx3-ubyte",
                (60_000, 28, 28),
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            _File(
                "train-labels-idx1-ubyte",
                (60_000,),
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
            _File(
                "t10k-images-idx3-ubyte",
                (10_000, 28, 28),
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            ),
            _File(
                "t10k-labels-idx1-ubyte",
                (10_000,),
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        ),
    ),
    "mnist": _Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        tuple("0123456789"),
        (
            _File(
                "train-images-idx3-ubyte",
                (60_000, 28, 28),
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            _File(
                "train-labels-idx1-ubyte",
                (60_000,),
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            _File(
                "t10k-images-idx3-ubyte",
                (10_000, 28, 28),
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            _File(
                "t10k-labels-idx1-ubyte",
                (10_000,),
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ),
    ),
}


def read_images(name: str, *, data_dir: Path | str | None = None) -> ImageData:
    """Images (N, 28, 28) uint8 of ten classes with labels (N,) int64 in [0, 10), in three disjoint parts.

    `fashion-mnist-mini` comes with the package: 8,500 images to train, 1,500 to calibrate, 2,000 to test, the first
    of Fashion-MNIST. `fashion-mnist` (Xiao, Rasul, Vollgraf, 2017; MIT licence) and `mnist` (LeCun, Cortes, Burges;
    CC BY-SA 3.0) have 51,000, 9,000 and 10,000. The test part is the authors'; their training images are shuffled
    with seed 0 and the last 15% are the calibration part.

    `mnist` and `fashion-mnist` are four IDX files, `train-images-idx3-ubyte` and so on, with or without .gz, also
    spelled `train-images.idx3-ubyte`. They are looked for in `data_dir`/<name> and `data_dir`, and nowhere else if it
    is given; without it in the same places of the folder that the environment variable SOFTARGMAX_DATA names; if they
    are not there, they are downloaded once into the user's cache folder (12 MB and 31 MB).

    Raises ValueError for an unknown name; for files that are missing from `data_dir`; for a file that is damaged, cut
    short, too long or not the one the authors publish (its SHA-256 is known); for a download that fails. What came of
    an interrupted download is kept, and the next call goes on from there.

    >>> data = read_images("fashion-mnist-mini")
    >>> len(data.train), len(data.calibration), len(data.test)
    (8500, 1500, 2000)
    >>> data.class_names[data.test.labels[0]], data.test.images.shape
    ('Ankle boot', (2000, 28, 28))
    """
    if name not in IMAGE_DATA:
        raise ValueError(
            f"there is no image data `{name}`; there are {listed(IMAGE_DATA)}{did_you_mean(str(name), IMAGE_DATA)}"
        )
    if name not in _SOURCES:
        return _split(name, _CLOTHES, _shipped())
    source = _SOURCES[name]
    paths = _local_files(name, data_dir) or _downloaded_files(name)
    arrays = [_read_idx(path, wanted, name) for path, wanted in zip(paths, source.files, strict=True)]
    return _split(name, source.class_names, arrays)


def _split(name: str, class_names: tuple[str, ...], arrays: Sequence[Array]) -> ImageData:
    images, labels, test_images, test_labels = arrays
    order = np.random.default_rng(0).permutation(len(labels))
    first, rest = np.split(order, [len(labels) * 85 // 100])
    train = ImageSet(images[first], labels[first].astype(np.int64))
    calibration = ImageSet(images[rest], labels[rest].astype(np.int64))
    test = ImageSet(test_images, test_labels.astype(np.int64))
    digest = hashlib.sha256()
    for part in (train, calibration, test):
        digest.update(part.images.tobytes())
        digest.update(part.labels.astype("<i8").tobytes())  # the same on every machine
    return ImageData(name, class_names, train, calibration, test, digest.hexdigest())


def _shipped() -> list[Array]:
    shipped = resources.files("softargmax.data").joinpath("fashion-mnist-mini.npz")
    with resources.as_file(shipped) as file:
        return [read_npz(file, name) for name in ("train_images", "train_labels", "test_images", "test_labels")]


def _local_files(name: str, data_dir: Path | str | None) -> list[Path] | None:
    """The four files in `data_dir`, or in $SOFTARGMAX_DATA; None if they are to be downloaded."""
    given = os.environ.get("SOFTARGMAX_DATA") if data_dir is None else data_dir
    if not given:
        return None
    files = _SOURCES[name].files
    folders = (Path(given) / name, Path(given))  # the special one first: all such data sets name their files alike
    found = [[_present(folder, file) for file in files] for folder in folders]
    for paths in found:
        there = [path for path in paths if path is not None]
        if len(there) == len(files):
            return there
    if data_dir is None:
        return None
    if not Path(given).is_dir():
        raise ValueError(f"there is no folder {given}; give the folder that holds the files of `{name}`")
    nearly = min(found, key=lambda paths: paths.count(None))
    missing = [f"{file.stem}.gz" for file, path in zip(files, nearly, strict=True) if path is None]
    raise ValueError(
        f"{given}: {listed(missing)} of `{name}` {'is' if len(missing) == 1 else 'are'} missing; "
        f"looked in {folders[0]} and in {folders[1]}, also for names without .gz or with .idx; "
        f"download what is missing from {_SOURCES[name].url}"
    )


def _present(folder: Path, file: _File) -> Path | None:
    return next((path for path in (folder / spelling for spelling in file.spellings) if path.is_file()), None)


def _read_idx(path: Path, wanted: _File, name: str) -> Array:
    """The array of one IDX file, if it is the one `wanted`: big-endian header (magic, sizes), then the bytes."""
    magic, rank = bytes((0, 0, 8, len(wanted.shape))), len(wanted.shape)
    start = 4 + 4 * rank
    size = start + int(np.prod(wanted.shape))
    content = _unzipped(path, size + 1)  # one more than wanted: enough to see that a file is too long
    if not content:
        raise ValueError(f"{path} is empty; {_again(wanted, name)}")
    if content[:4] != magic:
        raise ValueError(
            f"{path} is no IDX file of {'images' if rank == 3 else 'labels'}: it begins with "
            f"{content[:4].hex(' ')}, wanted {magic.hex(' ')} (unsigned bytes, rank {rank}); {_again(wanted, name)}"
        )
    if len(content) < start:
        raise ValueError(f"{path} is cut short: its header ends after {len(content)} bytes; {_again(wanted, name)}")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", rank, 4))
    if shape != wanted.shape:
        raise ValueError(f"{path} says it holds {shape}; wanted {wanted.shape}; {_again(wanted, name)}")
    if len(content) != size:
        wrong = "is too long" if len(content) > size else f"is cut short: {len(content):,} bytes unpacked"
        raise ValueError(f"{path} {wrong}; wanted {size:,}; {_again(wanted, name)}")
    array = np.frombuffer(content, np.uint8, offset=start).reshape(shape)
    if rank == 1:
        _checks.integer_labels(array, shape, 10, name=f"{path}: labels")
    digest = hashlib.sha256(content).hexdigest()
    if digest != wanted.unpacked:
        raise ValueError(
            f"{path} is not the file of `{name}`{_known_as(digest)}: SHA-256 unpacked is {digest}, "
            f"wanted {wanted.unpacked}; {_again(wanted, name)}"
        )
    return array.copy()  # writable, unlike the bytes


def _unzipped(path: Path, at_most: int) -> bytes:
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"  # whatever its name says: some programs unpack and keep the name
        raw.seek(0)
        if not zipped:
            return raw.read(at_most)
        try:
            with gzip.GzipFile(fileobj=raw) as stream:
                return stream.read(at_most)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is damaged or cut short ({error}); download it again") from None


def _again(wanted: _File, name: str) -> str:
    return f"get it again from {_SOURCES[name].url}{wanted.stem}.gz"


def _known_as(digest: str) -> str:
    known = {file.unpacked: f", but {file.stem} of `{name}`" for name, s in _SOURCES.items() for file in s.files}
    return known.get(digest, "")


def _downloaded_files(name: str) -> list[Path]:
    """The four files in the user's cache folder; what is not there yet, or damaged, is downloaded."""
    try:
        import pooch  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise ModuleNotFoundError('downloads need the app extra: pip install "softargmax[app]"') from None
    source, folder = _SOURCES[name], Path(pooch.os_cache("softargmax")) / name
    by_hand = (
        f"run it again, or download the four files {listed([f'{file.stem}.gz' for file in source.files])} by hand "
        f"from {source.url} into a folder, and give it with --data-dir"
    )
    paths = [folder / f"{file.stem}.gz" for file in source.files]
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        for path, file in zip(paths, source.files, strict=True):
            fetch = _Fetch(path, file.packed, by_hand)
            pooch.retrieve(source.url + path.name, file.packed, fname=path.name, path=folder, downloader=fetch)
    return paths


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait for other processes that download into this folder: two would write to one file."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows, which does not lock folders
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@dataclass(frozen=True)
class _Fetch:
    """A downloader for pooch that goes on where an interrupted one stopped, and says what to do if it cannot."""

    path: Path
    sha256: str
    by_hand: str

    def __call__(self, url: str, output_file: str, _: object) -> None:
        part = self.path.with_name(f"{self.path.name}.part")  # never taken for the file itself
        if problem := _fill(part, url):
            raise ValueError(f"cannot download {url}: {problem}; {self.by_hand}")
        with part.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != self.sha256:
            part.unlink()
            raise ValueError(
                f"{self.path}: what came from {url} has SHA-256 {found}, wanted {self.sha256}; it was removed; "
                f"{self.by_hand}"
            )
        part.replace(output_file)


def _fill(part: Path, url: str) -> str:
    """Download `url` into `part`, from where `part` ends if the server can -> what went wrong, or nothing."""
    import requests

    try:
        _append_rest(part, url)
    except requests.HTTPError as error:
        return str(error)
    except requests.ConnectionError as error:
        return f"there is no connection ({getattr(error.args[0], 'reason', error) if error.args else error})"
    except requests.RequestException as error:
        return f"the connection broke off ({error})"
    return ""


def _append_rest(part: Path, url: str) -> None:
    """Append to `part` what is there beyond its end; fewer bytes than were announced are an error of requests'."""
    import requests
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"}  # the bytes as they are stored
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=30) as response:
        if have and response.status_code == requests.codes.range_not_satisfiable:
            return  # all of it is there already, or another file: its SHA-256 will tell
        response.raise_for_status()
        goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if not goes_on:  # a server that knows no ranges sends it all
            have = 0
        announced = response.headers.get("Content-Length")
        total = None if announced is None else have + int(announced)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
        with part.open("ab" if goes_on else "wb") as file, bar:
            task = bar.add_task(url.rpartition("/")[-1], total=total, completed=have)
            for chunk in response.iter_content(1 << 16):
                file.write(chunk)
                bar.advance(task, len(chunk))
