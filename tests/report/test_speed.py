from xml.etree import ElementTree

import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from softargmax.report.palette import DARK, LIGHT
from softargmax.report.speed import save_speed, speed_figure

CURVES = {
    "softargmax": [(2, 1.5), (1000, 1.1), (131_072, 1.0)],
    "torch": [(2, 40.0), (1000, 1.4), (131_072, 1.3)],
    "ONNX <Runtime>": [(2, 4.0)],
}


def test_the_figure_holds_the_points():
    (axes,) = speed_figure(CURVES).axes
    lines = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}
    for name, curve in CURVES.items():
        assert lines[name] == curve
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    (low, high), (left, right) = axes.get_ylim(), axes.get_xlim()
    assert low < 1 < 40 < high
    assert left < 2 < 131_072 < right
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["2", "10", "100", "1,000", "10,000", "100,000"]


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_curves_differ_in_colour_and_shape(theme):
    (axes,) = speed_figure(CURVES, colors=theme).axes
    drawn = [line for line in axes.lines if line.get_label() in CURVES]
    assert len({line.get_marker() for line in drawn}) == len({line.get_color() for line in drawn}) == 3
    for line in drawn:
        assert contrast(line.get_color(), theme["page"]) > 3  # WCAG 1.4.11: graphics


def contrast(one, other):
    def light(color):
        channels = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
        return 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]

    low, high = sorted([light(one), light(other)])
    return (high + 0.05) / (low + 0.05)


def test_files(tmp_path):
    save_speed(CURVES, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"
        assert picture.getpixel((0, 0))[:3] == (255, 255, 255)
    save_speed(CURVES, tmp_path / "a.SVG")
    text = (tmp_path / "a.SVG").read_text("utf-8")
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "softargmax 1 to 1.5; torch 1.3 to 40; ONNX <Runtime> 4 to 4" in root.get("aria-label")
    # a theme for each reader: no colour of a stand-in is left, both pages are there
    assert "prefers-color-scheme: dark" in text
    assert LIGHT["page"] in text
    assert DARK["page"] in text
    assert "#fe01" not in text
    save_speed(CURVES, tmp_path / "b.svg")
    assert (tmp_path / "b.svg").read_text("utf-8") == text


def test_what_cannot_be_drawn(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.png or \.svg; got .*a\.pdf"):
        save_speed(CURVES, tmp_path / "a.pdf")
    with pytest.raises(ValueError, match="with points; got 0 of 0 points"):
        speed_figure({})
    with pytest.raises(ValueError, match="one to 3"):
        speed_figure({name: [(2, 1.0)] for name in "abcd"})
