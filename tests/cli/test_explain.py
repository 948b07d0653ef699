import pytest
from PIL import Image


def scores_of(ran):
    """The second column of the table."""
    lines = ran.out.splitlines()[3:]
    return [line.split()[1] for line in lines[: next(i for i, line in enumerate(lines) if "──" in line)]]


def test_the_steps_of_the_tutorials(run):
    ran = run("explain", 2, 1, 0.1)
    assert (ran.code, ran.err) == (0, "")
    rows = [line.split()[:5] for line in ran.out.splitlines()[3:6]]
    assert [row[4] for row in rows] == ["0.659", "0.242", "0.099"]
    assert [row[3] for row in rows] == ["1", "0.3679", "0.1496"]
    assert "7.389 + 2.718 + 1.105 = 11.21, with the same shares." in ran.out
    assert ran.out.endswith("The shares sum to 1. Adding the same number to every score changes nothing.\n")
    assert "\x1b" not in ran.out


@pytest.mark.parametrize(
    "words", [["2,1,0.1"], ["2,", "1,", "0.1"], ["2 1", "0.1"], ["2", ",1", ",", "0.1"], [" 2, 1 , .1"]]
)
def test_commas_do_as_well(run, words):
    assert run("explain", *words).out == run("explain", 2, 1, 0.1).out


@pytest.mark.parametrize(
    ("words", "scores"),
    [
        (["-1", "-2", "-3"], ["-1", "-2", "-3"]),
        (["-1e-3", "-inf", "-.5"], ["-0.001", "-inf", "-0.5"]),
        (["-1,-2"], ["-1", "-2"]),
        (["--", "-1", "2"], ["-1", "2"]),
        (["-1", "--temperature", "5", "-2"], ["-1", "-2"]),
        (["inf", "-Infinity", "NaN", "+1"], ["inf", "-inf", "nan", "1"]),
    ],
)
def test_numbers_below_zero_are_no_options(run, words, scores):
    ran = run("explain", *words)
    assert (ran.code, ran.err) == (0, "")
    assert scores_of(ran) == scores


def test_more_scores_than_a_screen_holds_are_all_there(run):
    assert scores_of(run("explain", *range(100))) == [str(z) for z in range(100)]


def test_a_temperature_divides(run):
    ran = run("explain", 2, 1, 0.1, "--temperature", 5)
    assert [line.split()[-1] for line in ran.out.splitlines()[3:6]] == [
        "40%",
        "33%",
        "27%",
    ]  # exp(.4), exp(.2), exp(.02)
    assert "T = 5 divides the scores" in ran.out
    assert "100%" in run("explain", 2, 1, "--temperature=0").out
    assert run("explain", 2, 1, "--temperature", "inf").out.count("0.500") == 2


def test_a_narrow_terminal_cuts_no_number(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    table = run("explain", 2, 1, 0.1).out.split("\n\n")[0].splitlines()
    assert max(map(len, table)) <= 40
    assert "…" not in "".join(table)
    assert table[4].split()[:5] == ["1", "1", "-1", "0.3679", "0.242"]


def test_the_figure_is_written(run, tmp_path):
    ran = run("explain", "-1", 2, "-o", "steps.png")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith("wrote steps.png\n")
    with Image.open(tmp_path / "steps.png") as image:
        assert image.width > image.height > 100
    assert run("explain", 1, 2, "--output", "steps.svg").code == 0
    assert "<svg" in (tmp_path / "steps.svg").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "there are no scores; give some: softargmax explain 2 1 0.1"),
        ([" "], "there are no scores"),
        (["1", "two", "3"], "score 2 is 'two', which is no number"),
        (["1,2", "3x"], "score 3 is '3x', which is no number"),
        (["-1x"], "score 1 is '-1x', which is no number"),
        (["1,,2"], "score 2 is empty"),
        (["1,2,"], "score 3 is empty"),
        (["1", "-1e999"], "score 2 is -1e999, more than a float64 holds"),
        (["--foo", "1"], "there is no option --foo;"),
        (["1", "--temperatur=5"], "there is no option --temperatur;"),
        (["1", "-x"], "there is no option -x;"),
        (["1", "--temperature", "-1"], "temperature must be 0 or more (inf is allowed); got -1.0"),
        (["1", "--temperature", "nan"], "temperature must be 0 or more (inf is allowed); got nan"),
        (["1", "--temperature", "warm"], "--temperature is 'warm', which is no number"),
        (["1", "--temperature", ""], "--temperature is empty"),
        (["1", "-o", "no/steps.png"], "cannot write no/steps.png: there is no folder"),
        (["1", "-o", "steps.jpg"], "ends in .png or .svg; got 'steps.jpg'"),
        (["1", "-o", "."], "got '.'"),
    ],
)
def test_mistakes_are_told_in_one_sentence(run, tmp_path, words, said):
    ran = run("explain", *words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("softargmax: error: ")
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_arguments(run):
    ran = run("explain", "--help")
    assert ran.code == 0
    assert "[SCORE]..." in ran.out
    assert "Example: softargmax explain 2 1 0.1" in ran.out
