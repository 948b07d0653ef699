"""Image data: shipped, found in a folder, downloaded; a small MNIST of 60 images stands for the large one."""

import concurrent.futures
import functools
import gzip
import hashlib
import http.server
import io
import socket
import struct
import sys
import threading
from collections import Counter
from importlib import resources

import numpy as np
import pooch
import pytest

from softargmax.data import IMAGE_DATA, images, read_images

STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
N_TRAIN, N_TEST = 40, 20


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (N_TRAIN + N_TEST, 28, 28), np.uint8)
    labels = np.arange(N_TRAIN + N_TEST) % 10
    return (pixels[:N_TRAIN], labels[:N_TRAIN], pixels[N_TRAIN:], labels[N_TRAIN:])


def contents(seed=0):
    return {stem: idx(array) for stem, array in zip(STEMS, arrays(seed), strict=True)}


def packed(content):
    return gzip.compress(content, mtime=0)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def source(url, seed=0):
    files = [
        images._File(stem, array.shape, sha256(packed(idx(array))), sha256(idx(array)))
        for stem, array in zip(STEMS, arrays(seed), strict=True)
    ]
    return images._Source(url, tuple("0123456789"), tuple(files))


def write(folder, seed=0, suffix=".gz"):
    folder.mkdir(parents=True, exist_ok=True)
    for stem, content in contents(seed).items():
        (folder / f"{stem}{suffix}").write_bytes(packed(content) if suffix else content)
    return folder


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; `cut` ends every answer after so many bytes; `log` holds (name, Range) of every request."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {f"{stem}.gz": packed(content) for stem, content in contents().items()}
        self.cut, self.ranges, self.log = None, True, []
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name, wanted = self.path.strip("/"), self.headers["Range"]
        self.server.log.append((name, wanted))
        if name not in self.server.files:
            return self.send_error(404)
        content, start = self.server.files[name], 0
        if wanted and self.server.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.delenv("SOFTARGMAX_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.setitem(images._SOURCES, "mnist", source("http://localhost:1/"))
    monkeypatch.setitem(images._SOURCES, "fashion-mnist", source("http://localhost:1/", seed=1))


@pytest.fixture
def server(monkeypatch):
    with Server() as server:
        thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        monkeypatch.setitem(images._SOURCES, "mnist", source(server.url))
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "softargmax" / "mnist"


def rows(pixels, labels):
    return Counter(bytes([label]) + image.tobytes() for image, label in zip(pixels, labels, strict=True))


def assert_is_the_small_mnist(data):
    train_pixels, train_labels, test_pixels, test_labels = arrays()
    assert (data.name, len(data.train), len(data.calibration), len(data.test)) == ("mnist", 34, 6, 20)
    assert data.class_names == tuple("0123456789")
    for part in (data.train, data.calibration, data.test):
        assert part.images.dtype == np.uint8
        assert part.labels.dtype == np.int64
        assert part.images.flags.writeable
    np.testing.assert_array_equal(data.test.images, test_pixels)
    np.testing.assert_array_equal(data.test.labels, test_labels)
    train, calibration = (rows(part.images, part.labels) for part in (data.train, data.calibration))
    assert train + calibration == rows(train_pixels, train_labels)


def test_the_shipped_images():
    data = read_images("fashion-mnist-mini")
    assert (len(data.train), len(data.calibration), len(data.test)) == (8500, 1500, 2000)
    assert data.train.images.shape == (8500, 28, 28)
    assert data.class_names == images._CLOTHES
    assert data.test.labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]  # as every page on Fashion-MNIST shows
    for part in (data.train, data.calibration, data.test):
        assert (part.images.dtype, part.labels.dtype) == (np.uint8, np.int64)
        shares = np.bincount(part.labels, minlength=10) / len(part)
        assert (abs(shares - 0.1) < 0.03).all()  # the whole data set has 10% of each


def test_the_shipped_file_is_small_says_where_it_is_from_and_keeps_the_licence():
    shipped = resources.files("softargmax.data").joinpath("fashion-mnist-mini.npz")
    content = shipped.read_bytes()
    assert len(content) <= 6_000_000
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        assert tuple(file["class_names"]) == images._CLOTHES
        assert file["train_labels"][:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
        provenance = str(file["provenance"])
    for words in ("arXiv:1708.07747", "© 2017 Zalando SE", "Permission is hereby granted", "WITHOUT WARRANTY"):
        assert words in provenance


def test_train_and_calibration_part_the_shipped_training_images():
    data = read_images("fashion-mnist-mini")
    shipped = resources.files("softargmax.data").joinpath("fashion-mnist-mini.npz")
    with np.load(io.BytesIO(shipped.read_bytes()), allow_pickle=False) as file:
        whole = rows(file["train_images"], file["train_labels"])
    train, calibration = (rows(part.images, part.labels) for part in (data.train, data.calibration))
    assert train + calibration == whole  # as often as there: no image twice, none left out
    once = {row for row, times in whole.items() if times == 1}
    assert not once & set(train) & set(calibration)


def test_the_parts_are_disjoint_and_the_same_each_time():
    numbers = np.arange(10_000)
    pixels = np.zeros((10_000, 28, 28), np.uint8)
    pixels[:, 0, :2] = np.stack([numbers // 256, numbers % 256], axis=1)
    data = images._split("x", (), (pixels, numbers % 10, pixels[:3], numbers[:3]))
    parts = [part.images[:, 0, :2].astype(int) @ [256, 1] for part in (data.train, data.calibration)]
    assert sorted(np.concatenate(parts).tolist()) == numbers.tolist()
    np.testing.assert_array_equal(data.calibration.labels, parts[1] % 10)
    assert abs(parts[1].mean() - 5000) < 300  # drawn from everywhere: 4 standard errors
    again = images._split("x", (), (pixels, numbers % 10, pixels[:3], numbers[:3]))
    np.testing.assert_array_equal(again.train.images, data.train.images)


def test_the_digest_is_of_all_images_and_labels():
    def digest(*given):
        return images._split("x", (), given).sha256

    given = arrays()
    data = images._split("x", (), given)
    parts = (data.train, data.calibration, data.test)
    content = b"".join(p.images.tobytes() + struct.pack(f"<{len(p)}q", *p.labels) for p in parts)
    assert digest(*given) == sha256(content)
    for changed in range(4):
        other = [array.copy() for array in given]
        other[changed].flat[-1] += 1
        assert digest(*other) != digest(*given)


@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize("inside", [".", "mnist"])
@pytest.mark.parametrize("dotted", [False, True])
def test_files_are_found_in_a_folder(tmp_path, monkeypatch, suffix, inside, dotted):
    folder = write(tmp_path / "here" / inside, suffix=suffix)
    if dotted:
        for path in folder.iterdir():
            path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert_is_the_small_mnist(read_images("mnist", data_dir=tmp_path / "here"))
    assert_is_the_small_mnist(read_images("mnist", data_dir=str(tmp_path / "here")))
    monkeypatch.setenv("SOFTARGMAX_DATA", str(tmp_path / "here"))
    assert_is_the_small_mnist(read_images("mnist"))


def test_what_a_file_holds_counts_not_its_name(tmp_path):
    for path in write(tmp_path).iterdir():
        path.write_bytes(gzip.decompress(path.read_bytes()))  # as some browsers do
    assert_is_the_small_mnist(read_images("mnist", data_dir=tmp_path))
    for path in tmp_path.iterdir():
        path.write_bytes(gzip.compress(path.read_bytes(), 1))  # other bytes, the same content
    assert_is_the_small_mnist(read_images("mnist", data_dir=tmp_path))


def test_the_folder_of_the_data_set_goes_first(tmp_path):
    write(tmp_path, seed=1)
    write(tmp_path / "mnist")
    assert_is_the_small_mnist(read_images("mnist", data_dir=tmp_path))
    assert read_images("fashion-mnist", data_dir=tmp_path).class_names[9] == "9"  # the stand-in's


def test_what_is_missing_is_named_and_nothing_is_downloaded(tmp_path, monkeypatch, server):
    monkeypatch.setenv("SOFTARGMAX_DATA", str(write(tmp_path / "whole")))
    folder = write(tmp_path / "part")
    (folder / f"{STEMS[1]}.gz").unlink()
    with pytest.raises(ValueError, match=f"part: `{STEMS[1]}.gz` of `mnist` is missing; looked in .*part/mnist and in"):
        read_images("mnist", data_dir=folder)
    (folder / f"{STEMS[2]}.gz").unlink()
    with pytest.raises(ValueError, match=f"`{STEMS[1]}.gz` and `{STEMS[2]}.gz` of `mnist` are missing"):
        read_images("mnist", data_dir=folder)
    with pytest.raises(ValueError, match="there is no folder .*nowhere"):
        read_images("mnist", data_dir=tmp_path / "nowhere")
    assert server.log == []


@pytest.mark.parametrize("name", ["fashion-mnis", "MNIST", "cifar10", ""])
def test_an_unknown_name_gets_the_known_ones(name):
    near = {"fashion-mnis": "did you mean `fashion-mnist`", "MNIST": "did you mean `mnist`"}.get(name, "and `mnist`")
    with pytest.raises(ValueError, match=f"no image data `{name}`; there are `fashion-mnist-mini`, .*{near}"):
        read_images(name)


def test_every_name_that_is_told_is_known(tmp_path):
    write(tmp_path / "mnist")
    write(tmp_path / "fashion-mnist", seed=1)
    assert [read_images(name, data_dir=tmp_path).name for name in IMAGE_DATA] == list(IMAGE_DATA)


LABELS = contents()[STEMS[1]]
PIXELS = contents()[STEMS[0]]


@pytest.mark.parametrize(
    ("stem", "content", "sentence"),
    [
        (STEMS[0], b"", "is empty"),
        (STEMS[0], b"hello, world", "is no IDX file of images: it begins with 68 65 6c 6c, wanted 00 00 08 03"),
        (STEMS[0], LABELS, "is no IDX file of images: it begins with 00 00 08 01"),
        (STEMS[1], PIXELS, "is no IDX file of labels"),
        (STEMS[0], PIXELS[:2] + b"\x0d" + PIXELS[3:], "begins with 00 00 0d 03"),
        (STEMS[0], PIXELS[:10], "header ends after 10 bytes"),
        (STEMS[0], idx(arrays()[0].reshape(N_TRAIN, 14, 56)), r"says it holds \(40, 14, 56\); wanted \(40, 28, 28\)"),
        (STEMS[1], idx(arrays()[1][:-1]), r"says it holds \(39,\); wanted \(40,\)"),
        (STEMS[0], PIXELS[:4] + b"\xff" * 4 + PIXELS[8:], r"says it holds \(4294967295, 28, 28\)"),
        (STEMS[0], PIXELS[:-1], "is cut short: 31,375 bytes unpacked; wanted 31,376"),
        (STEMS[0], PIXELS + b"\0", "is too long; wanted 31,376"),
        (STEMS[1], LABELS[:-1] + b"\x0a", r"labels must lie in \[0, 9\].*got 10 at index 39"),
        (STEMS[1], LABELS[:-1] + b"\x08", "is not the file of `mnist`: SHA-256 unpacked is [0-9a-f]{64}, wanted"),
        (STEMS[0], contents(1)[STEMS[0]], f"is not the file of `mnist`, but {STEMS[0]} of `fashion-mnist`"),
    ],
)
@pytest.mark.parametrize("suffix", [".gz", ""])
def test_a_wrong_file_is_named_and_refused(tmp_path, stem, content, sentence, suffix):
    write(tmp_path, suffix=suffix)
    (tmp_path / f"{stem}{suffix}").write_bytes(packed(content) if suffix else content)
    with pytest.raises(ValueError, match=f"{stem}{suffix}:? .*{sentence}"):
        read_images("mnist", data_dir=tmp_path)


def test_every_cut_and_every_flipped_byte_of_a_gzip_is_seen(tmp_path):
    write(tmp_path)
    path = tmp_path / f"{STEMS[3]}.gz"
    whole, unread = path.read_bytes(), range(4, 10)  # the date and the system in the header, which say nothing
    flipped = [whole[:i] + bytes([whole[i] ^ 0x55]) + whole[i + 1 :] for i in range(len(whole)) if i not in unread]
    for content in [whole[:end] for end in range(len(whole))] + flipped:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=path.name):
            images._read_idx(path, images._SOURCES["mnist"].files[3], "mnist")


def test_a_gzip_that_unpacks_to_very_much_is_not_unpacked(tmp_path):
    write(tmp_path)
    bomb = tmp_path / f"{STEMS[3]}.gz"
    bomb.write_bytes(gzip.compress(contents()[STEMS[3]] + bytes(50_000_000), 1))
    assert len(images._unzipped(bomb, 100)) == 100
    with pytest.raises(ValueError, match="is too long"):
        read_images("mnist", data_dir=tmp_path)


def test_a_download_is_done_once(server, cache):
    assert_is_the_small_mnist(read_images("mnist"))
    assert server.log == [(f"{stem}.gz", None) for stem in STEMS]
    assert sorted(path.name for path in cache.iterdir()) == sorted(f"{stem}.gz" for stem in STEMS)
    assert_is_the_small_mnist(read_images("mnist"))
    assert len(server.log) == 4


def test_of_two_at_once_one_downloads_and_both_read(server, cache):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        digests = [data.sha256 for data in pool.map(lambda _: images.read_images("mnist"), range(4))]
    assert len(set(digests)) == 1
    assert server.log == [(f"{stem}.gz", None) for stem in STEMS]


def test_a_folder_that_has_not_all_leads_to_a_download(tmp_path, monkeypatch, server):
    monkeypatch.setenv("SOFTARGMAX_DATA", str(tmp_path))
    assert_is_the_small_mnist(read_images("mnist"))
    assert len(server.log) == 4


def test_an_interrupted_download_goes_on_where_it_stopped(server, cache):
    server.cut = 1000
    with pytest.raises(ValueError, match=f"cannot download {server.url}{STEMS[0]}.gz: the connection broke off.*by h"):
        read_images("mnist")
    assert [path.name for path in cache.iterdir()] == [f"{STEMS[0]}.gz.part"]
    came = (cache / f"{STEMS[0]}.gz.part").read_bytes()
    assert server.files[f"{STEMS[0]}.gz"].startswith(came)
    (cache / f"{STEMS[0]}.gz.part").write_bytes(server.files[f"{STEMS[0]}.gz"][:700])
    server.cut, server.log = None, []
    assert_is_the_small_mnist(read_images("mnist"))
    assert server.log[:2] == [(f"{STEMS[0]}.gz", "bytes=700-"), (f"{STEMS[1]}.gz", None)]
    assert not list(cache.glob("*.part"))


def test_a_download_cut_on_the_way_keeps_what_came(server, cache):
    rng = np.random.default_rng(0)
    server.files[f"{STEMS[0]}.gz"], server.cut = rng.bytes(1_000_000), 300_000
    with pytest.raises(ValueError, match="broke off"):
        read_images("mnist")
    came = (cache / f"{STEMS[0]}.gz.part").stat().st_size
    assert 0 < came <= 300_000
    with pytest.raises(ValueError, match="broke off"):
        read_images("mnist")
    assert server.log == [(f"{STEMS[0]}.gz", None), (f"{STEMS[0]}.gz", f"bytes={came}-")]


def test_a_server_without_ranges_starts_again(server, cache):
    server.ranges = False
    cache.mkdir(parents=True)
    (cache / f"{STEMS[0]}.gz.part").write_bytes(b"x" * 700)
    assert_is_the_small_mnist(read_images("mnist"))
    assert server.log[0] == (f"{STEMS[0]}.gz", "bytes=700-")


def test_a_download_that_stopped_at_its_last_byte_is_taken(server, cache):
    cache.mkdir(parents=True)
    (cache / f"{STEMS[0]}.gz.part").write_bytes(server.files[f"{STEMS[0]}.gz"])
    assert_is_the_small_mnist(read_images("mnist"))


def test_other_bytes_than_the_known_ones_are_removed(server, cache):
    good = server.files[f"{STEMS[1]}.gz"]
    server.files[f"{STEMS[1]}.gz"] = bad = packed(LABELS + b"?")
    sentence = (
        f"{STEMS[1]}.gz: what came from {server.url}{STEMS[1]}.gz has SHA-256 {sha256(bad)}, wanted {sha256(good)}"
    )
    with pytest.raises(ValueError, match=sentence + "; it was removed; .*--data-dir"):
        read_images("mnist")
    assert [path.name for path in cache.iterdir()] == [f"{STEMS[0]}.gz"]
    server.files[f"{STEMS[1]}.gz"] = good
    assert_is_the_small_mnist(read_images("mnist"))


def test_a_bad_part_costs_one_try(server, cache):
    cache.mkdir(parents=True)
    (cache / f"{STEMS[0]}.gz.part").write_bytes(b"x" * 700)
    with pytest.raises(ValueError, match="it was removed; run it again"):
        read_images("mnist")
    assert_is_the_small_mnist(read_images("mnist"))


def test_a_damaged_file_in_the_cache_is_downloaded_again(server, cache):
    read_images("mnist")
    (cache / f"{STEMS[2]}.gz").write_bytes(b"damaged")
    server.log = []
    assert_is_the_small_mnist(read_images("mnist"))
    assert server.log == [(f"{STEMS[2]}.gz", None)]


def test_a_file_that_is_not_there_says_what_to_do(server, cache):
    del server.files[f"{STEMS[0]}.gz"]
    with pytest.raises(ValueError, match=f"cannot download .*404.*download the four files `{STEMS[0]}.gz`, .*--data-d"):
        read_images("mnist")
    assert list(cache.iterdir()) == []


def test_no_connection_says_what_to_do(monkeypatch, cache):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setitem(images._SOURCES, "mnist", source(f"http://127.0.0.1:{port}/"))
    with pytest.raises(ValueError, match="there is no connection .*refused.*by hand from http://127.*--data-dir"):
        read_images("mnist")
    assert list(cache.iterdir()) == []


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_a_bar_is_for_a_terminal(server, monkeypatch, stream):
    monkeypatch.setenv("FORCE_COLOR", "1")  # colours are another matter
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream())
    read_images("mnist")
    assert (f"{STEMS[0]}.gz" in sys.stderr.getvalue()) == (stream is Terminal)
    assert ("\x1b[" in sys.stderr.getvalue()) == (stream is Terminal)


def test_without_pooch_a_download_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ModuleNotFoundError, match=r"softargmax\[app\]"):
        read_images("mnist")
    assert len(read_images("fashion-mnist-mini").test) == 2000  # needs none
