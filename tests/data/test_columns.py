"""Tables of any kind -> named columns: numbers to the last bit, text as it stands, errors that name the line."""

import csv
import datetime
import io
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softargmax.data import _tables
from softargmax.data import columns as columns_module
from softargmax.data.columns import MISSING, TABLE_FILES, read_columns, whole

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def written(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def same(found, wanted):
    """Numbers bit for bit, text and missing cells as they are."""
    if found.dtype == object:
        return found.tolist() == wanted
    return found.dtype == np.float64 and np.array_equal(found, np.array(wanted, np.float64), equal_nan=True)


# ---- what cells mean ----


def test_the_cells_of_a_column_say_what_it_is(tmp_path):
    file = written(tmp_path / "t.csv", "age,sex,ticket\n41, male,A1\n,female ,7\n.5e1,NA,8\n")
    found = read_columns(file)
    assert list(found.columns) == ["age", "sex", "ticket"]
    assert same(found.columns["age"], [41, math.nan, 5])
    assert same(found.columns["sex"], ["male", "female", None])
    assert same(found.columns["ticket"], ["A1", "7", "8"])
    assert (len(found), found.others, found.place(2)) == (3, (), "line 4")


def test_a_column_is_what_it_is_said_to_be(tmp_path):
    file = written(tmp_path / "t.csv", "a,b,c,d\n1,1,NA, x \n2,2,,\n")
    found = read_columns(file, {"a": "category", "b": "number", "c": "text", "d": "text"})
    assert same(found.columns["a"], ["1", "2"])
    assert same(found.columns["b"], [1, 2])
    assert same(found.columns["c"], ["NA", None])  # of a text only what is blank is missing
    assert same(found.columns["d"], [" x ", None])


def test_others_are_named_and_not_read(tmp_path):
    file = written(tmp_path / "t.csv", "a,b,c\n1,1O,x\n2,2,y\n" + "3,3,z\n" * 20)
    with pytest.raises(ValueError, match="column `b`: got `1O`"):
        read_columns(file)
    found = read_columns(file, {"a": None}, only=True)
    assert (list(found.columns), found.others) == (["a"], ("b", "c"))


@pytest.mark.parametrize("mark", MISSING)
def test_marks_of_what_is_missing(tmp_path, mark):
    found = read_columns(written(tmp_path / "t.csv", f"a,b,c\n1,x,1\n{mark}, {mark} ,2\n"))
    assert same(found.columns["a"], [1, math.nan])
    assert same(found.columns["b"], ["x", None])


@pytest.mark.parametrize("cell", ["NAN", "Nan", "nan(1)", "INF", "iNf"])
@pytest.mark.parametrize("other", ["2", "+2", " 2", "NA"])  # arrow takes the first of them alone for a number
def test_other_spellings_are_text_whatever_the_other_cells_are(tmp_path, cell, other):
    file = written(tmp_path / "t.csv", f"a,b\n1,x\n{cell},x\n{other},x\n")
    assert same(read_columns(file).columns["a"], ["1", cell, None if other == "NA" else other.strip()])
    with pytest.raises(ValueError, match=re.escape(f"line 3, column `a`: got `{cell}`; wanted a number")):
        read_columns(file, {"a": "number"})


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
@settings(deadline=None)
def test_numbers_keep_every_bit(tmp_path_factory, values):
    file = tmp_path_factory.mktemp("t") / "t.csv"
    found = read_columns(written(file, "a,b\n" + "".join(f"{value!r},x\n" for value in values)))
    assert found.columns["a"].tobytes() == np.array(values).tobytes()


LINES = st.text(st.sampled_from('ab"\n,\t é'), max_size=6)


@given(st.lists(st.tuples(LINES, LINES), min_size=1, max_size=8))
@settings(deadline=None)
def test_text_is_what_the_standard_library_reads(tmp_path_factory, rows):
    """Quotes, separators and line breaks inside cells; and the line on which each row begins."""
    stream, lines = io.StringIO(), []
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(["a", "b"])
    for row in rows:
        lines.append(stream.getvalue().count("\n") + 1)
        writer.writerow(row)
    file = written(tmp_path_factory.mktemp("t") / "t.csv", stream.getvalue())
    if blank := [line for line, row in zip(lines, rows, strict=True) if row == ("", "")]:
        with pytest.raises(ValueError, match=f"line {blank[0]}: it is blank"):
            read_columns(file, {"a": "text", "b": "text"})
        return
    found = read_columns(file, {"a": "text", "b": "text"})
    for number, name in enumerate("ab"):
        assert same(found.columns[name], [row[number] if row[number].strip() else None for row in rows])
    assert found.places.tolist() == lines


# ---- codes ----


def law_codes_keep_their_zeros(read, folder):
    """Cells are numbers or codes: a zero before a digit makes codes of the column, and of no other."""
    cells = {
        "zip": ["01234", "1234", ""], "id": ["7", "007", " 07"], "sign": ["-01", "+1", "2"], "day": ["01", "10", "NA"],
        "number": ["0", "0.5", "-0.25"], "power": ["0e3", "1e05", "+0."], "many": ["100", "10", "1"],
    }  # fmt: skip
    rows = zip(*cells.values(), strict=True)
    table = read(written(folder / "t.csv", "\n".join(",".join(row) for row in [tuple(cells), *rows]) + "\n"))
    assert {name: values.tolist() for name, values in table.columns.items()} == {
        "zip": ["01234", "1234", None], "id": ["7", "007", "07"], "sign": ["-01", "+1", "2"],
        "day": ["01", "10", None], "number": [0, 0.5, -0.25], "power": [0, 1e5, 0], "many": [100, 10, 1],
    }  # fmt: skip


def test_codes_keep_their_zeros(tmp_path, monkeypatch):
    law_codes_keep_their_zeros(read_columns, tmp_path)
    for pattern in ("x^", r"^0\d", r"^[+-]?0"):  # none is a code; those without a sign alone; 0 and 0.5 too
        monkeypatch.setattr(columns_module, "_CODE", pattern)
        with pytest.raises(AssertionError):
            law_codes_keep_their_zeros(read_columns, tmp_path)


def test_codes_of_parquet_are_codes(tmp_path):
    parquet.write_table(pyarrow.table({"zip": ["01234", "1234"], "n": [1, 2]}), tmp_path / "t.parquet")
    found = read_columns(tmp_path / "t.parquet")
    assert same(found.columns["zip"], ["01234", "1234"])
    assert same(found.columns["n"], [1, 2])


@pytest.mark.parametrize("cell", ["1", "1.0", "+1", "1e0", "10e-1"])
def test_an_integer_is_called_the_same_however_it_is_written(cell):
    assert whole(cell) == "1"


@pytest.mark.parametrize("cell", ["01", "1.5", "inf", "1_0", "1 0", "one", ""])
def test_what_is_no_integer_stays_as_it_is(cell):
    assert whole(cell) == cell


# ---- tabs ----

GLUE = 'sentence\tlabel\n"an open quote\t1\nplain\t0\nclosed" here\t1\n"quoted ""twice"""\t0\n'


def test_a_quote_that_is_never_closed_swallows_no_rows_between_tabs(tmp_path, monkeypatch):
    wanted = ['"an open quote', "plain", 'closed" here', 'quoted "twice"']
    file = written(tmp_path / "t.tsv", GLUE)
    found = read_columns(file, {"sentence": "text"})
    assert same(found.columns["sentence"], wanted)
    assert same(found.columns["label"], [1, 0, 1, 0])
    # the reader that every CSV library is: quotes are quotes
    quoting = list(csv.reader(io.StringIO(GLUE), delimiter="\t"))[1:]
    assert [row[0] for row in quoting] != wanted


def test_quoted_tabs_and_line_breaks_are_in_the_cell(tmp_path):
    found = read_columns(written(tmp_path / "t.tsv", 'a\tb\n"x\ty"\t1\n"u\nv"\t2\nw\t3\n'))
    assert same(found.columns["a"], ["x\ty", "u\nv", "w"])
    assert [found.place(row) for row in range(3)] == ["line 2", "line 3", "line 5"]


def test_one_column_is_the_same_between_tabs_and_commas(tmp_path):
    content = 'a\n"u\nv"\nw\n"x ""y"""\n'
    for suffix in (".csv", ".tsv"):
        found = read_columns(written(tmp_path / f"t{suffix}", content), {"a": "text"})
        assert same(found.columns["a"], ["u\nv", "w", 'x "y"'])
        assert found.places.tolist() == [2, 4, 5]


def test_cells_that_begin_and_end_with_quotes_are_read_as_they_were(tmp_path):
    """Marks inside a line close nothing: neither an inch, nor a quoted word that begins a cell."""
    found = read_columns(written(tmp_path / "t.csv", 'a,b\n5" pipe,"u\nv"\n"The" film,"u\r\n""v"""\n'))
    assert same(found.columns["a"], ['5" pipe', "The film"])
    assert same(found.columns["b"], ["u\nv", 'u\r\n"v"'])


@pytest.mark.parametrize("last", ["", "\r"])
def test_line_ends_of_old_macs(tmp_path, last):
    found = read_columns(written(tmp_path / "t.csv", f'a,b\r1,"x\ry"\r2,z{last}'))
    assert same(found.columns["a"], [1, 2])
    assert same(found.columns["b"], ["x\ny", "z"])
    assert found.places.tolist() == [2, 4]


def test_quotation_marks_in_names_are_no_line_breaks(tmp_path):
    found = read_columns(written(tmp_path / "t.csv", '"a","b, c",5" pipe,"say ""d"""\r\n1,2,3,4\r\n'))
    assert list(found.columns) == ["a", "b, c", '5" pipe', 'say "d"']


def test_marks_of_windows_are_read(tmp_path):
    found = read_columns(written(tmp_path / "t.csv", b"\xef\xbb\xbfa,b\r\n1,x\r\n2,y\r\n"))
    assert same(found.columns["a"], [1, 2])
    assert same(found.columns["b"], ["x", "y"])


# ---- parquet and npz ----


def test_parquet_has_types(tmp_path):
    day = datetime.date(2020, 1, 2)
    table = pyarrow.table(
        {
            "integer": pyarrow.array([1, None, 2**40], pyarrow.int64()),
            "single": pyarrow.array([0.1, math.nan, 2], pyarrow.float32()),
            "decimal": pyarrow.array([1, 2, 3], pyarrow.decimal128(5, 2)),
            "truth": [True, None, False],
            "text": ["1", " x ", None],
            "dictionary": pyarrow.array(["a", "b", "a"]).dictionary_encode(),
            "date": [day, day, None],
            "nothing": pyarrow.nulls(3),
        }
    )
    parquet.write_table(table, tmp_path / "t.parquet")
    found = read_columns(tmp_path / "t.parquet", {"text": None})
    assert same(found.columns["integer"], [1, math.nan, 2**40])
    assert same(found.columns["single"], [float(np.float32(0.1)), math.nan, 2])
    assert same(found.columns["decimal"], [1, 2, 3])
    assert same(found.columns["truth"], ["True", None, "False"])
    assert same(found.columns["text"], ["1", "x", None])
    assert same(found.columns["dictionary"], ["a", "b", "a"])
    assert same(found.columns["date"], ["2020-01-02", "2020-01-02", None])
    assert same(found.columns["nothing"], [math.nan] * 3)
    assert found.place(1) == "row 1"
    as_category = read_columns(tmp_path / "t.parquet", {"integer": "category", "single": "category"}, only=True)
    assert same(as_category.columns["integer"], ["1", None, str(2**40)])
    assert same(as_category.columns["single"], [repr(float(np.float32(0.1))), None, "2"])


def test_parquet_of_a_kind_that_is_no_column(tmp_path):
    parquet.write_table(pyarrow.table({"a": [1], "b": [[1, 2]]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t.parquet: column `b` holds list<.*>; wanted numbers or text"):
        read_columns(tmp_path / "t.parquet")


def test_arrays(tmp_path):
    X, y = np.array([[1, 2], [3, 4]], np.float32), np.array([1, 0])
    np.savez(tmp_path / "t.npz", X=X, y=y, class_names=np.array(["no", "yes"]), other=np.array(["u", "v"]))
    found = read_columns(tmp_path / "t.npz", {"other": None})
    assert list(found.columns) == ["x0", "x1", "y", "other"]
    assert same(found.columns["x1"], [2, 4])
    assert same(found.columns["y"], ["yes", "no"])
    assert same(found.columns["other"], ["u", "v"])
    np.savez(tmp_path / "u.npz", X=X, y=y)
    assert same(read_columns(tmp_path / "u.npz").columns["y"], [1, 0])


# ---- what is wrong ----

MOSTLY_NUMBERS = "".join(f"{i},x\n" for i in range(19))
WRONG = {
    "no file": ("other.csv", "", "there is no file"),
    "empty": ("t.csv", b"", "t.csv is empty"),
    "blanks": ("t.csv", "\n \n", "t.csv holds only blanks"),
    "kind": ("t.xlsx", "x", "t.xlsx: cannot read a file of this kind; supported are"),
    "no rows": ("t.csv", "a,b\n", "t.csv has no rows; wanted a row for each example"),
    "blank header": ("t.csv", "\na,b\n", "line 1: it is blank; wanted a header: the name of each column"),
    "semicolons": ("t.csv", "a;b\n1;2\n", "line 1: the columns are separated by semicolons; separate them by commas"),
    "tabs": ("t.csv", "a\tb\n1\t2\n", "line 1: the columns are separated by tabs"),
    "commas": ("t.tsv", "a,b\n1,2\n", "separated by commas; separate them by tabs, or name the file .csv"),
    "no name": ("t.csv", ",b\n1,2\n", "line 1: column 1 has no name"),
    "twice": ("t.csv", "a,a\n1,2\n", "two columns are named `a`"),
    "not UTF-8": ("t.csv", b"a,b\nx,1\n\xff,2\n", "t.csv, line 3: it is not UTF-8 text"),
    "ragged": ("t.csv", 'a,b\n"x\ny\nz",1\nu\n', "t.csv, line 5: it has 1 cell; the header has 2 columns"),
    "open quote": ("t.csv", 'a,b\nu,1\n"x,1\ny,2\n', r"line 3: it has 1 cell; .* \(is a quote left open\?\)"),
    "open quote in the last column": (
        "t.csv", 'a,b\n"x\ny","u\nv"\n"p\nq","good\nq,r\n',
        "t.csv, line 6, column `b`: a quote is left open, and the cell runs on to the end of the file; end the cell",
    ),
    "open quote after an inch": ("t.csv", 'a,b\n5" pipe,x\np,"good\nq,r\n', "line 3, column `b`: a quote is left open"),
    "open quote in the last line": ("t.csv", 'a,b\np,"good', "line 2, column `b`: a quote is left open"),
    "open quote, one column": ("t.tsv", 'a\n"good\nq\n', "t.tsv, line 2, column `a`: a quote is left open"),
    "open quote between tabs": ("t.tsv", 'a\tb\n"x\ty"\t1\np\t"good\nq\tr\n', "line 3, column `b`: a quote is left"),
    "open quote until the next": (
        "t.csv", 'a,b\n"x\ny","u\nv"\np,"good\nq,"nice"\nr,s\n',
        "line 5, column `b`: a quote is left open, and the cell runs on to line 6; end the cell with a quotation mark",
    ),
    "open quote, bare carriage returns": (
        "t.csv", b'a,b\np,q\rr,"u\rv"\r\ns,"good\nq,r\n', "line 5, column `b`: a quote is left open",
    ),
    "too many cells": ("t.csv", "a\n1\n1,2\n", "line 3: it has 2 cells; the header has 1 column$"),
    "no rows, no line end": ("t.csv", "a,t", "t.csv has no rows; wanted a row for each example"),
    "carriage return in the header": ("t.csv", "a,b\r1,x\n2,y\n", r"line 1: it has a carriage return \(\\r\) in it"),
    "a long first line": ("t.csv", "a" * 200_000 + ",b\n1,2\n", "line 1: a cell has more than 131,072 characters"),
    "a break in a name after a BOM": ("t.csv", '\ufeff"u\nv",b\n1,2\n', "line 1: a column name has a line break in it"),
    "thousands": (
        "t.csv", 'a,b\n12,x\n"1,937",y\n"8,028.00",z\n',
        "line 3, column `a`: got `1,937`, and 1 .* numbers; leave out the commas that separate thousands, 1937$",
    ),
    "no thousands": (
        "t.csv", 'a,b\n"1,937",x\n"2,5",y\n', "got `1,937`; write it with a decimal point, and no commas",
    ),
    "less than a thousand": ("t.csv", 'a,b\n"0,125",x\n', "got `0,125`; write it with a decimal point, and no commas"),
    "blank line": ("t.csv", 'a,b\n"x\ny",1\n\nz,2\n', "t.csv, line 4: it is blank; delete the line"),
    "nearly numbers": (
        "t.csv",
        f"a,b\n{MOSTLY_NUMBERS}1O,x\n",
        "line 21, column `a`: got `1O`, and 19 of the column's 20 cells are numbers; leave the cell empty if it is",
    ),
    "per cent": (
        "t.csv", "a,b\n50%,x\n-7.5 %,y\n",
        "line 2, column `a`: got `50%`; write it without the per cent sign, all cells of the column alike",
    ),
    "one per cent": (
        "t.csv", f"a,b\n{MOSTLY_NUMBERS}7%,x\n",
        "line 21, column `a`: got `7%`, and 19 of the column's 20 cells are numbers; write it without the per cent",
    ),
    "a break in a name": ("t.csv", '"u\nv",b\n1,2\n', "line 1: a column name has a line break in it; write each name"),
    "a break in the last name": ("t.tsv", 'a\t"u\nv"\n1\t2\n', "line 1: a column name has a line break in it"),
    "an index": ("t.csv", ",a\n0,1\n", r"column 1 has no name; if it is an index that pandas wrote.*index=False"),
    "an index, quoted": ("t.tsv", '""\ta\n0\t1\n', "column 1 has no name; if it is an index that pandas wrote"),
    "decimal commas": (
        "t.csv", 'a,b\n"1,5",x\n"2,5",y\n',
        "line 2, column `a`: got `1,5`; write it with a decimal point, and no commas",
    ),
    "infinite": ("t.csv", "a,b\n1,x\n-inf,y\n", "line 3, column `a`: got -inf; wanted a finite number"),
    "overflow": ("t.csv", "a,b\n1,x\n1e999,y\n", "line 3, column `a`: got inf; wanted a finite number"),
    "no parquet": ("t.parquet", "x" * 99, "t.parquet cannot be read"),
    "no npz": ("t.npz", "a,b\n", "t.npz is not a .npz file"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_tables_are_told_where(tmp_path, case):
    name, content, sentence = WRONG[case]
    if case != "no file":
        written(tmp_path / name, content)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_columns(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_number_where_one_is_wanted(tmp_path):
    file = written(tmp_path / "t.csv", 'a,b\n"x\ny",1\nz,one\n')
    with pytest.raises(ValueError, match=r"t.csv, line 4, column `b`: got `one`; wanted a number"):
        read_columns(file, {"b": "number"})


def test_columns_that_are_not_there_are_named(tmp_path):
    file = written(tmp_path / "t.csv", "age,sex\n1,m\n")
    with pytest.raises(ValueError, match="there is no column `Age`; it has `age` and `sex`; did you mean `age`?"):
        read_columns(file, {"Age": "number"})
    with pytest.raises(ValueError, match="there are no columns `fare` and `class`; it has"):
        read_columns(file, {"fare": "number", "sex": "category", "class": None})


ARRAYS = {
    "no X": ({"x": np.zeros((2, 2))}, "there is no array `X`; it has `x`.*did you mean `x`"),
    "one dimension": ({"X": np.zeros(3)}, r"array `X` must be numbers \(N, p\), a row an example; got shape \(3,\)"),
    "text": ({"X": np.array([["a"]])}, "array `X` must be numbers"),
    "labels of another length": ({"X": np.zeros((2, 2)), "y": np.zeros(3)}, r"array `y` must be .* \(2,\), one a row"),
    "outside": ({"X": np.zeros((2, 1)), "y": np.array([0, 2]), "class_names": np.array(["a", "b"])}, "row 1: `y` is 2"),
    "names": ({"X": np.zeros((1, 1)), "y": np.array([0]), "class_names": np.zeros(2)}, "`class_names` must be text"),
    "infinite": ({"X": np.array([[1.0], [np.inf]])}, "row 1, column `x0`: got inf"),
    "objects": ({"X": np.array([[None]])}, "is never read"),
}  # fmt: skip


@pytest.mark.parametrize("case", ARRAYS)
def test_wrong_arrays(tmp_path, case):
    arrays, sentence = ARRAYS[case]
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(ValueError, match=sentence):
        read_columns(tmp_path / "t.npz")


def test_every_kind_of_file_is_the_same_table(tmp_path):
    numbers = np.random.default_rng(0).normal(size=(5, 2))
    rows = "".join(f"{a!r}{{0}}{b!r}\n" for a, b in numbers.tolist())
    written(tmp_path / "t.csv", "x0,x1\n" + rows.format(","))
    written(tmp_path / "t.tsv", "x0\tx1\n" + rows.format("\t"))
    parquet.write_table(pyarrow.table({"x0": numbers[:, 0], "x1": numbers[:, 1]}), tmp_path / "t.parquet")
    np.savez(tmp_path / "t.npz", X=numbers)
    for suffix in TABLE_FILES:
        found = read_columns(tmp_path / f"t{suffix}")
        np.testing.assert_array_equal(np.column_stack(list(found.columns.values())), numbers)


def test_a_row_that_fits_into_no_block(tmp_path, monkeypatch):
    monkeypatch.setattr(_tables, "_BLOCK", 1 << 20)
    file = written(tmp_path / "t.csv", 'a,b\np,"good\n' + "q,r\n" * (1 << 19))
    with pytest.raises(ValueError, match=r"it has a row of more than 1 MiB.*\(is a quote left open\?\)"):
        read_columns(file)


def test_a_block_of_arrow_ends_in_no_cell(tmp_path, monkeypatch):
    """Cells with line breaks are whole wherever the file is cut for reading."""
    read = _tables._read

    def in_small_blocks(*given):
        _, arrow = _tables.arrow_for("csv")
        options = arrow.ReadOptions
        monkeypatch.setattr(arrow, "ReadOptions", lambda **o: options(**{**o, "block_size": 64}))
        try:
            return read(*given)
        finally:
            monkeypatch.setattr(arrow, "ReadOptions", options)

    file = written(tmp_path / "t.csv", "a,b\n" + '"x\ny",1\n' * 100)
    monkeypatch.setattr(_tables, "_read", in_small_blocks)
    found = read_columns(file)
    assert same(found.columns["a"], ["x\ny"] * 100)
    assert found.places.tolist() == list(range(2, 202, 2))
