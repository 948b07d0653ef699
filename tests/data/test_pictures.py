"""Pictures of every size and colour -> greyscale. The pictures are made on the spot, the values known by hand."""

import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from softargmax.data import Picture, border_mean, fitted, pictures_in, read_images, read_picture

COLOURS = np.array(
    [[(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)], [(0, 0, 0), (10, 20, 30), (200, 100, 50), (1, 2, 3)]],
    np.uint8,
)
LUMINANCE = COLOURS @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def saved(path, image, **options):
    Image.fromarray(image).save(path, **options) if isinstance(image, np.ndarray) else image.save(path, **options)
    return path


def pixels(path):
    return read_picture(path).pixels


def grey(height, width, value=0):
    return np.full((height, width), value, np.uint8)


def picture(array):
    return Picture(np.asarray(array, np.uint8), "", 1)


def png(width, height, depth, colour, rows, *chunks):
    """A PNG by its specification, for what Pillow does not write."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*each) for each in chunks) + data + chunk(b"IEND", b"")


def test_grey_pictures_keep_their_values(tmp_path):
    values = np.arange(256, dtype=np.uint8).reshape(8, 32)
    found = read_picture(saved(tmp_path / "p.png", values))
    np.testing.assert_array_equal(found.pixels, values)
    assert (found.pixels.dtype, found.source, found.n_frames) == (np.uint8, str(tmp_path / "p.png"), 1)
    np.testing.assert_array_equal(pixels(str(tmp_path / "p.png")), values)
    saved(tmp_path / "p.jpg", grey(8, 8, 77))
    np.testing.assert_array_equal(pixels(tmp_path / "p.jpg"), grey(8, 8, 77))


def test_black_and_white(tmp_path):
    checks = np.indices((5, 9)).sum(axis=0) % 2 == 1
    np.testing.assert_array_equal(pixels(saved(tmp_path / "p.png", checks)), np.where(checks, 255, 0))


def test_colours_become_their_luminance(tmp_path):
    np.testing.assert_allclose(pixels(saved(tmp_path / "p.png", COLOURS)), LUMINANCE, atol=1)
    for i, colour in enumerate(COLOURS.reshape(-1, 3)):
        path = saved(tmp_path / "p.jpg", Image.new("RGB", (16, 16), tuple(colour.tolist())), quality=95)
        np.testing.assert_allclose(pixels(path), np.full((16, 16), LUMINANCE.flat[i]), atol=2)  # a JPEG's own rounding


def test_a_palette_is_its_colours(tmp_path):
    image = Image.fromarray(COLOURS).quantize(8, dither=Image.Dither.NONE)
    seen = np.array(image.convert("RGB")) @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(pixels(saved(tmp_path / "p.png", image)), seen, atol=1)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 128, 129, 255, 256, 257, 32768, 65406, 65535]], np.uint16)
    np.testing.assert_array_equal(pixels(saved(tmp_path / "p.png", values)), [[0, 0, 1, 1, 1, 1, 128, 254, 255]])
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(pixels(saved(tmp_path / "p.png", every)), np.round(every / 257))
    (tmp_path / "c.png").write_bytes(png(3, 1, 16, 2, [struct.pack(">9H", *[1000] * 3, *[65535] * 3, 65535, 0, 0)]))
    np.testing.assert_allclose(pixels(tmp_path / "c.png"), [[1000 / 257, 255, 0.299 * 255]], atol=1)
    (tmp_path / "a.png").write_bytes(png(2, 1, 16, 4, [struct.pack(">4H", 30_000, 65535, 30_000, 0)]))
    np.testing.assert_allclose(pixels(tmp_path / "a.png"), [[30_000 / 257, 255]], atol=1)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_shows_white(tmp_path, mode):
    alpha = np.array([[0, 64, 128, 255]], np.uint8)
    level = 40
    bands = [np.full_like(alpha, level)] * (3 if mode == "RGBA" else 1)
    path = saved(tmp_path / "p.png", np.stack([*bands, alpha], axis=-1))
    np.testing.assert_allclose(pixels(path), level * (alpha / 255) + 255 * (1 - alpha / 255), atol=1)


def test_a_palette_with_transparency_shows_white(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([10, 10, 10, 100, 100, 100, 200, 200, 200])
    np.testing.assert_array_equal(pixels(saved(tmp_path / "p.png", image, transparency=1)), [[10, 255, 200]])
    path = saved(tmp_path / "p.png", image, transparency=bytes([0, 128, 255]))
    np.testing.assert_allclose(pixels(path), [[255, 100 * 128 / 255 + 127, 200]], atol=1)


@pytest.mark.parametrize(
    ("depth", "colour", "row", "clear", "seen"),
    [
        (1, 0, bytes([0b01000000]), [1], [0, 255, 0]),
        (1, 0, bytes([0b01000000]), [0], [255, 255, 255]),
        (2, 0, bytes([0b00011000]), [1], [0, 255, 170]),
        (4, 0, bytes([0x05, 0xF0]), [5], [0, 255, 255]),
        (8, 0, bytes([0, 5, 200]), [5], [0, 255, 200]),
        (16, 0, struct.pack(">3H", 0, 257, 258), [257], [0, 255, 1]),
        (8, 2, bytes([3, 3, 3, 4, 4, 4, 9, 9, 9]), [4, 4, 4], [3, 255, 9]),
    ],
)
def test_one_transparent_level_shows_white(tmp_path, depth, colour, row, clear, seen):
    content = png(3, 1, depth, colour, [row], (b"tRNS", struct.pack(f">{len(clear)}H", *clear)))
    (tmp_path / "p.png").write_bytes(content)
    np.testing.assert_array_equal(pixels(tmp_path / "p.png"), [seen])


def test_one_transparent_colour_of_16_bits_is_refused(tmp_path):
    clear = (b"tRNS", struct.pack(">3H", 1000, 1000, 1000))
    (tmp_path / "p.png").write_bytes(png(1, 1, 16, 2, [struct.pack(">3H", 1000, 1000, 1000)], clear))
    with pytest.raises(ValueError, match=r"p.png: one of its 16-bit colours is transparent.*save it with 8 bits"):
        read_picture(tmp_path / "p.png")


def test_four_inks(tmp_path):
    for ink, seen in (((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0), ((0, 255, 255, 0), 0.299 * 255)):
        path = saved(tmp_path / "p.jpg", Image.new("CMYK", (8, 8), ink), quality=95)
        np.testing.assert_allclose(pixels(path), np.full((8, 8), seen), atol=2)


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(grey(4, 4, value)) for value in (10, 20, 30)]
    frames[0].save(tmp_path / "p.png", save_all=True, append_images=frames[1:])
    found = read_picture(tmp_path / "p.png")
    assert found.n_frames == 3
    np.testing.assert_array_equal(found.pixels, grey(4, 4, 10))


# where each of 8 orientations puts the first row and the first column of what was stored (EXIF 2.3, tag 0x0112)
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: a.T[:, ::-1],
    7: lambda a: a.T[::-1, ::-1],
    8: lambda a: a.T[::-1],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("name", ["p.png", "p.jpg"])
def test_a_camera_held_askew(tmp_path, orientation, name):
    blocks = np.array([[0, 90, 180], [255, 60, 120]], np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / name, blocks, exif=exif)
    np.testing.assert_allclose(pixels(path), UPRIGHT[orientation](blocks), atol=4)  # a JPEG's loss
    if name == "p.png":
        deep = blocks.astype(np.uint16) * 257
        np.testing.assert_array_equal(pixels(saved(path, deep, exif=exif)), UPRIGHT[orientation](blocks))


def test_an_exif_of_nonsense_is_left_alone(tmp_path):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0nonsense"
    np.testing.assert_array_equal(pixels(saved(tmp_path / "p.jpg", grey(8, 8, 50), exif=exif)), grey(8, 8, 50))


@pytest.mark.parametrize("shape", [(1, 1), (3, 5000), (5000, 3), (1, 7)])
def test_pictures_of_odd_sizes(tmp_path, shape):
    found = read_picture(saved(tmp_path / "p.png", grey(*shape, 123)))
    assert found.pixels.shape == shape
    np.testing.assert_array_equal(fitted(found, (28, 28)), grey(28, 28, 123))


def test_what_a_file_holds_counts_not_its_name(tmp_path):
    for name in ("p.jpg", "p", "p.jfif"):
        saved(tmp_path / name, grey(2, 2, 9), format="PNG")
        np.testing.assert_array_equal(pixels(tmp_path / name), grey(2, 2, 9))


@pytest.mark.parametrize("kind", ["GIF", "WebP", "BMP", "TIFF"])
def test_other_kinds_are_named(tmp_path, kind):
    saved(tmp_path / "p.png", grey(4, 4), format=kind)
    with pytest.raises(ValueError, match=rf"p.png is a file of another kind \({kind}\).*only PNG and JPEG"):
        read_picture(tmp_path / "p.png")


@pytest.mark.parametrize("content", [b"hello, this is text", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\0" * 100])
def test_text_is_no_picture(tmp_path, content):
    (tmp_path / "p.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"p.png is no picture: .*\(is it text\?\)"):
        read_picture(tmp_path / "p.png")


def test_no_file_a_folder_and_an_empty_file(tmp_path):
    saved(tmp_path / "cat.png", grey(2, 2))
    with pytest.raises(ValueError, match=r"there is no file .*cta.png; did you mean `cat.png`"):
        read_picture(tmp_path / "cta.png")
    with pytest.raises(ValueError, match=r"is a folder; give a file: `.png`, `.jpg` or `.jpeg`"):
        read_picture(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"empty.png is empty \(0 bytes\)"):
        read_picture(tmp_path / "empty.png")


def test_large_pictures_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "p.png"
    for size, most in (((30_000, 30_000), None), ((60_000, 2_000), None), ((65_536, 1), None), ((4, 3), 11)):
        if most is not None:
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        path.write_bytes(png(*size, 8, 0, []))
        with pytest.raises(ValueError, match=r"p.png is too large a picture: wanted at most 65,535 pixels a side"):
            read_picture(path)


def refused(path, right):
    """Whether the damaged file is refused by its name; if it is read, it is the right picture."""
    try:
        np.testing.assert_array_equal(pixels(path), right)
    except ValueError as error:
        return path.name in str(error)
    return False


@pytest.mark.parametrize("name", ["p.png", "p.jpg"])
def test_every_cut_of_a_picture_is_read_whole_or_refused(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    path = saved(tmp_path / name, noise)
    whole, right = path.read_bytes(), pixels(path)
    count = sum(path.write_bytes(whole[:end]) == end and refused(path, right) for end in range(len(whole)))
    assert count >= len(whole) - 4  # the mark of its end may be missing


def test_every_flipped_byte_of_a_png_is_harmless_or_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (12, 9), np.uint8)
    path = saved(tmp_path / "p.png", noise)
    whole, count = path.read_bytes(), 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x41
        path.write_bytes(damaged)
        count += refused(path, noise)
    assert count >= len(whole) - 12  # of its end, the name and the check sum


def test_a_picture_that_has_the_size_is_not_touched():
    noise = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    np.testing.assert_array_equal(fitted(picture(noise), (28, 28)), noise)
    np.testing.assert_array_equal(fitted(picture(noise), (28, 28), invert=True), 255 - noise)
    np.testing.assert_array_equal(fitted(picture(noise[:20]), (20, 28)), noise[:20])


def test_a_new_pixel_is_the_mean_of_those_it_covers():
    noise = np.random.default_rng(0).integers(0, 256, (12, 12), np.uint8)
    means = noise.reshape(4, 3, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(fitted(picture(noise), (4, 4)), means, atol=1)
    # 3 pixels to 2: each new one covers one and a half
    np.testing.assert_allclose(fitted(picture([[0, 90, 240]] * 3), (2, 2)), [[30, 190]] * 2, atol=1)
    np.testing.assert_array_equal(fitted(picture([[1, 2], [3, 4]]), (4, 4)), np.kron([[1, 2], [3, 4]], np.ones((2, 2))))


@pytest.mark.parametrize("factor", [2, 5, 10])
def test_real_images_shown_larger_come_back(factor):
    for image in read_images("fashion-mnist-mini").test.images[:20]:
        larger = image.repeat(factor, axis=0).repeat(factor, axis=1)
        np.testing.assert_array_equal(fitted(picture(larger), (28, 28)), image)


@pytest.mark.parametrize("tall", [False, True])
def test_a_strip_is_padded_with_its_own_border(tall):
    strip = np.full((4, 8), 200)
    strip[1:3, 2:6] = 0
    wanted = np.full((8, 8), 200)
    wanted[3:5, 2:6] = 0
    given, wanted = (strip.T, wanted.T) if tall else (strip, wanted)
    np.testing.assert_array_equal(fitted(picture(given), (8, 8)), wanted)
    np.testing.assert_array_equal(fitted(picture(given), (4, 4)), wanted.reshape(4, 2, 4, 2).mean(axis=(1, 3)))


def test_the_ground_is_the_median_of_the_border():
    spotted = np.full((2, 6), 30)
    spotted[0, 0], spotted[1, 3] = 255, 0
    assert set(fitted(picture(spotted), (6, 6))[[0, 1, 4, 5]].ravel().tolist()) == {30}


def test_other_proportions_are_padded_not_stretched():
    found = fitted(picture(np.pad(grey(10, 10), 5, constant_values=255)), (20, 40))
    np.testing.assert_array_equal(found[:, :10], grey(20, 10, 255))
    np.testing.assert_array_equal(found[5:15, 15:25], grey(10, 10))
    assert (found == 0).sum() == 100


def test_a_long_strip_is_no_large_square():
    tracemalloc.start()
    found = fitted(picture(grey(1, 65_535, 60)), (28, 28))
    assert tracemalloc.get_traced_memory()[1] < 100_000_000
    tracemalloc.stop()
    np.testing.assert_array_equal(found, grey(28, 28, 60))
    lines = np.tile(np.repeat([0, 200], 50), (3, 50))  # 3 x 5000: 25 new pixels of 200 old ones, each half and half
    assert fitted(picture(lines), (25, 25)).tolist()[12] == pytest.approx([100 * 3 / 200 + 100 * 197 / 200] * 25, abs=1)


@pytest.mark.parametrize("size", [(0, 28), (28,), (28.0, 28), (28, -1)])
def test_a_size_is_two_positive_integers(size):
    with pytest.raises(ValueError, match="size must be two positive integers"):
        fitted(picture(grey(2, 2)), size)


def test_the_mean_of_the_border():
    ring = np.array([[1, 2, 3], [4, 100, 5], [6, 7, 8]], np.uint8)
    assert border_mean(ring) == 36 / 8
    assert border_mean(np.stack([ring, grey(3, 3, 255)])) == (36 + 8 * 255) / 16
    assert border_mean(grey(1, 5, 7)) == 7
    assert border_mean(grey(28, 28, 255)) == 255
    for wrong in (np.zeros(3), np.zeros((0, 28, 28)), np.zeros((2, 2, 2, 2))):
        with pytest.raises(ValueError, match=r"images must have shape \(H, W\) or \(N, H, W\)"):
            border_mean(wrong)


def test_the_images_that_come_with_the_package_have_a_dark_ground():
    assert border_mean(read_images("fashion-mnist-mini").test.images) < 128


def test_the_pictures_of_a_folder(tmp_path):
    for name in ("b.png", "a.JPG", "c.jpeg", "notes.txt", ".hidden.png", "d.gif"):
        (tmp_path / name).touch()
    (tmp_path / "inside.png").mkdir()
    (tmp_path / "inside.png" / "x.png").touch()
    names = [path.name for path in pictures_in([tmp_path])]
    assert names == ["a.JPG", "b.png", "c.jpeg"]
    other = tmp_path / "notes.txt"
    assert pictures_in([other, tmp_path, other]) == [other, *(tmp_path / name for name in names), other]
    assert pictures_in([]) == []
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"no picture \(`.png`, `.jpg` and `.jpeg`\) in the folder .*none"):
        pictures_in([tmp_path / "none"])


def test_without_pillow_a_picture_says_what_to_install(tmp_path, monkeypatch):
    saved(tmp_path / "p.png", grey(2, 2))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=r"softargmax\[app\]"):
        read_picture(tmp_path / "p.png")
