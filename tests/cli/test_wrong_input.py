"""Every mistake of a user: exit code 2, one sentence that names the place, nothing written, nothing left behind."""

# ruff: noqa: E501

import io
import os
import pickle

import numpy as np
import pyarrow.parquet
import pytest

from softargmax.data import read_predictions

Z = np.array([[2.0, 0.0, 1.0], [0.0, 1.0, 0.5], [0.2, 0.1, 3.0], [1.0, 2.0, 0.0]])
Y = np.array([0, 1, 2, 2])
P = np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.3, 0.1, 0.6]])
LISTS = {"logits": Z.tolist(), "label": Y.tolist()}
LINES = '{"label": 0, "logits": [2.0, 0.5]}\n{"label": 1, "logits": [0.1, 0.7]}\n{"label": 0, "logits": [3.0, 1.0]}\n'
CSV = "label,cat,dog\n0,2.0,0.5\n1,0.1,0.7\n0,3.0,1.0\n"


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def parquet(**columns):
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), stream)
    return stream.getvalue()


def put(row, column, value, scores=Z):
    changed = scores.copy()
    changed[row, column] = value
    return changed


def lines(old="", new=""):
    assert old in LINES
    return LINES.replace(old, new, 1)


def csv(old="", new=""):
    assert old in CSV
    return CSV.replace(old, new, 1)


# what is wrong: the files (name -> bytes or text; the first is PREDS), the flags, what the sentence must say
WRONG = {
    # the file itself
    "empty": ({"p.npz": b""}, [], "p.npz is empty"),
    "empty csv": ({"p.csv": b""}, ["--logits"], "p.csv is empty"),
    "blanks only": ({"p.csv": "\n\n  \n"}, ["--logits"], "p.csv holds only blanks"),
    "text named npz": ({"p.npz": "label,a,b\n"}, [], "p.npz is not a .npz file"),
    "text named npy": ({"p.npy": "1 2 3\n"}, ["--logits"], "p.npy is not a .npy file"),
    "npy named npz": ({"p.npz": npy(Z)}, [], "p.npz is not a .npz file: it holds one array"),
    "npz named npy": ({"p.npy": npz(logits=Z)}, ["--logits"], "it is a zip, as numpy.savez writes it; name it .npz"),
    "truncated zip": ({"p.npz": npz(logits=Z, labels=Y)[:300]}, [], "p.npz cannot be read: it is damaged or cut short"),
    "pickled npz": ({"p.npz": npz(logits=Z.astype(object), labels=Y)}, [], "p.npz: array `logits` cannot be read: it holds Python objects as a pickle"),
    "pickled labels": ({"p.npz": npz(logits=Z, labels=Y.astype(object))}, [], "array `labels` cannot be read: it holds Python objects"),
    "pickled npy": ({"p.npy": npy(Z.astype(object))}, ["--logits"], "p.npy cannot be read: it holds Python objects as a pickle"),
    "a bare pickle": ({"p.npz": pickle.dumps(Z)}, [], "it holds a pickle, which can run code and is never read"),
    "unsupported": ({"p.mat": b"x"}, [], "p.mat: cannot read a file of this kind; supported are `.npz`, `.npy`, `.csv`, `.parquet` and `.jsonl`"),
    # which arrays
    "misnamed array": ({"p.npz": npz(logit=Z, labels=Y)}, [], "there is no array `logits`, `log_probs` or `probs`; it has `logit` and `labels`; did you mean `logits`? rename `logit`"),
    "unnamed arrays": ({"p.npz": npz(arr_0=Z, arr_1=Y)}, [], "it has `arr_0` and `arr_1`"),
    "no labels": ({"p.npz": npz(logits=Z, label=Y)}, [], "there is no array `labels`; it has `logits` and `label`"),
    "two kinds": ({"p.npz": npz(logits=Z, probs=Z, labels=Y)}, [], "p.npz holds `logits` and `probs`; say which is meant: --logits or --probs"),
    "a flag that contradicts": ({"p.npz": npz(probs=Z, labels=Y)}, ["--logits"], "--logits was asked for, and there is no array `logits`; it has `probs` and `labels`"),
    "two flags": ({"p.npz": npz(logits=Z, labels=Y)}, ["--logits", "--probs"], "give one of --logits, --log-probs and --probs"),
    "npy without a flag": ({"p.npy": npy(Z)}, [], "a .npy file does not say what its numbers are; say it: --logits, --log-probs or --probs"),
    "csv without a flag": ({"p.csv": CSV}, [], "a .csv file does not say what its numbers are; say it: --logits, --log-probs or --probs"),
    "npy without labels": ({"p.npy": npy(Z)}, ["--logits"], "p.npy has no labels"),
    # shapes and dtypes
    "1-d scores": ({"p.npz": npz(logits=Z[0], labels=Y)}, [], "p.npz: array `logits` must have shape (N, K)"),
    "3-d scores": ({"p.npz": npz(logits=Z[None], labels=Y)}, [], "reshape"),
    "one column": ({"p.npz": npz(logits=Z[:, :1], labels=Y)}, [], "has 1 class column; wanted at least two"),
    "no rows": ({"p.npz": npz(logits=Z[:0], labels=Y[:0])}, [], "array `logits` has no rows"),
    "complex": ({"p.npz": npz(logits=Z * 1j, labels=Y)}, [], "array `logits` must be real numbers"),
    "strings": ({"p.npz": npz(logits=Z.astype("U"), labels=Y)}, [], "array `logits` must be real numbers"),
    "class names of bytes": ({"p.npz": npz(logits=Z, labels=Y, class_names=np.array([b"a", b"b", b"c"]))}, [], "array `class_names` must be text"),
    "two names for three": ({"p.npz": npz(logits=Z, labels=Y, class_names=np.array(["a", "b"]))}, [], "array `class_names` must have shape (3,)"),
    # labels
    "another length": ({"p.npz": npz(logits=Z, labels=Y[:3])}, [], "p.npz has 3 labels, p.npz has 4 rows"),
    "another length elsewhere": ({"p.npz": npz(logits=Z), "y.txt": "0\n1\n"}, ["--labels", "y.txt"], "y.txt has 2 labels, p.npz has 4 rows"),
    "label too large": ({"p.npz": npz(logits=Z, labels=[0, 1, 5, 0])}, [], "p.npz: labels must lie in [0, 2] (there are 3 classes); got 5 in array `labels`, row 2"),
    "labels from 1": ({"p.npz": npz(logits=Z, labels=[1, 2, 3, 1])}, [], "do they start at 1? pass labels - 1"),
    "label negative": ({"p.npz": npz(logits=Z, labels=[0, -1, 2, 0])}, [], "got -1 in array `labels`, row 1"),
    "float labels": ({"p.npz": npz(logits=Z, labels=Y * 1.0)}, [], "labels must be integers"),
    "one-hot float labels": ({"p.npz": npz(logits=Z, labels=np.eye(3)[Y])}, [], "labels must be integers; got dtype float64; for one-hot rows pass labels.argmax(axis=-1)"),
    "labels of one column": ({"p.npz": npz(logits=Z, labels=Y[:, None])}, [], "got shape (4, 1); pass labels.ravel()"),
    "labels with NaN": ({"p.npz": npz(logits=Z, labels=[0, 1, np.nan, 0])}, [], "they hold NaN: drop the rows that have no label"),
    "labels with fractions": ({"p.npz": npz(logits=Z, labels=[0, 1, 0.5, 0])}, [], "labels must be integers; got dtype float64; class probabilities"),
    "labels of text": ({"p.npz": npz(logits=Z, labels=np.array(["a"] * 4))}, [], "p.npz: labels must be integers; got dtype <U1"),
    "one-hot labels": ({"p.npz": npz(logits=Z, labels=np.eye(3, dtype=int)[Y])}, [], "for one-hot rows pass labels.argmax(axis=-1)"),
    "--labels of nothing": ({"p.npz": npz(logits=Z, target=Y)}, ["--labels", "targets"], "--labels targets: p.npz has no array of that name (it has `logits` and `target`; did you mean `target`?), and there is no such file"),
    "--labels of another kind": ({"p.npz": npz(logits=Z), "y.json": "[0]"}, ["--labels", "y.json"], "y.json: cannot read a file of this kind; supported are `.npy`, `.npz`, `.csv` and `.txt`"),
    "--labels misnamed": ({"p.npz": npz(logits=Z), "y.npz": npz(y=Y)}, ["--labels", "y.npz"], "y.npz: there is no array `labels`; it has `y`"),
    "--labels csv misnamed": ({"p.npz": npz(logits=Z), "y.csv": "labels\n0\n"}, ["--labels", "y.csv"], "y.csv, line 1: there is no column `label`; the columns are `labels`; rename `labels` to `label`"),
    "--labels txt": ({"p.npz": npz(logits=Z), "y.txt": "0\n1\ntwo\n0\n"}, ["--labels", "y.txt"], "y.txt, line 3: got `two`; wanted an integer"),
    "--labels txt blank": ({"p.npz": npz(logits=Z), "y.txt": "0\n\n1\n2\n"}, ["--labels", "y.txt"], "y.txt, line 2: got an empty cell"),
    # values
    "NaN": ({"p.npz": npz(logits=put(2, 1, np.nan), labels=Y)}, [], "p.npz, array `logits`, row 2, column 1: got nan"),
    "+inf": ({"p.npz": npz(logits=put(slice(1, 4), 0, np.inf), labels=Y)}, [], "row 1, column 0: got inf (and 2 more rows like it)"),
    "only -inf": ({"p.npz": npz(logits=put(1, slice(None), -np.inf), labels=Y)}, [], "p.npz, row 1: it holds only -inf"),
    "no probabilities": ({"p.npz": npz(probs=Z, labels=Y)}, [], "p.npz: probs must be probabilities (each in [0, 1], every row summing to 1); row 0 holds 2 and sums to 3; these look like logits"),
    "sums": ({"p.npz": npz(probs=put(1, 0, 0.1, np.full((4, 3), 1 / 3)), labels=Y)}, [], "row 1 sums to 0.766667"),
    "csv probabilities": ({"p.csv": "label,a,b\n0,0.5,0.5\n1,0.5,0.6\n"}, ["--probs"], "p.csv: probs must be probabilities (each in [0, 1], every row summing to 1); line 3 sums to 1.1"),
    "percentages": ({"p.npz": npz(probs=np.full((4, 3), 100 / 3), labels=Y)}, [], "row 0 holds 33.3333 and sums to 100; these look like percentages: divide by 100"),
    "log_probs above 0": ({"p.npz": npz(log_probs=Z, labels=Y)}, [], "p.npz, row 0: log_probs must be logarithms of probabilities that sum to 1; got 2 (column 0); these look like logits: name the array `logits`, or pass --logits"),
    "log_probs of less": ({"p.npz": npz(log_probs=put(2, slice(None), -2.0, np.log(P)), labels=Y)}, [], "row 2: log_probs must be logarithms of probabilities that sum to 1; they sum to 0.406006; these look like logits"),
    "log_probs base 10": ({"p.npz": npz(log_probs=np.log10(P), labels=Y)}, [], "these look like base-10 logarithms: multiply them by ln 10"),
    "csv log_probs": ({"p.csv": CSV}, ["--log-probs"], "p.csv, line 2: log_probs must be"),
    "csv NaN": ({"p.csv": csv("0.7", "nan")}, ["--logits"], "p.csv, line 3, column `dog`: got nan"),
    # tables
    "no column label": ({"p.csv": csv("label", "labels")}, ["--logits"], "p.csv, line 1: there is no column `label`; the columns are `labels`, `cat` and `dog`"),
    "no column of labels": ({"p.csv": csv("label", "id")}, ["--logits"], "p.csv, line 1: there is no column `label`"),
    "a column before the labels": ({"p.csv": csv("label,cat", "cat,label")}, ["--logits"], "p.csv, line 1: column `cat` stands before `label`; wanted the labels first, then one column a class; move or delete it"),
    "a column before the labels named": ({"p.csv": csv("label,cat,dog", "cat,truth,dog")}, ["--logits", "--labels", "truth"], "column `cat` stands before `truth`"),
    "an id after the labels": ({"p.csv": csv("cat", "ID")}, ["--logits"], "p.csv, line 1: column `ID` is no class name, and every column after the labels is a class; delete the column, or rename it"),
    "an id, labels elsewhere": ({"p.csv": csv("label", "id"), "y.txt": "0\n1\n0\n"}, ["--logits", "--labels", "y.txt"], "column `id` is no class name"),
    "no class column": ({"p.csv": "label\n0\n1\n"}, ["--logits"], "p.csv, line 1: there is no column but the labels"),
    "no header": ({"p.csv": "0,2.5,0.5\n1,0.1,0.7\n"}, ["--logits"], "p.csv, line 1: the column of class 1 is named `2.5`, a number"),
    "classes from 1": ({"p.csv": "label,1,2\n1,2.5,0.5\n2,0.1,0.7\n"}, ["--logits"], "the column of class 0 is named `1`, a number that is not its position"),
    "duplicate columns": ({"p.csv": csv("cat", "dog")}, ["--logits"], "p.csv, line 1: two columns are named `dog`"),
    "nameless column": ({"p.csv": csv("cat", "")}, ["--logits"], "p.csv, line 1: column 2 has no name"),
    "header only": ({"p.csv": "label,cat,dog\n"}, ["--logits"], "p.csv has a header and no rows"),
    "semicolons": ({"p.csv": CSV.replace(",", ";")}, ["--logits"], "p.csv, line 1: the columns are separated by semicolons"),
    "tabs": ({"p.csv": CSV.replace(",", "\t")}, ["--logits"], "separated by tabs"),
    "a word": ({"p.csv": csv("0.7", "high")}, ["--logits"], "p.csv, line 3, column `dog`: got `high`; wanted a number"),
    "an empty cell": ({"p.csv": csv("0.7", "")}, ["--logits"], "p.csv, line 3, column `dog`: got an empty cell; wanted a number"),
    "an empty label": ({"p.csv": csv("\n1,", "\n,")}, ["--logits"], "p.csv, line 3, column `label`: got an empty cell"),
    "a blank line": ({"p.csv": csv("\n1,", "\n\n1,")}, ["--logits"], "p.csv, line 3: it is blank"),
    "a short row": ({"p.csv": csv(",0.7", "")}, ["--logits"], "p.csv, line 3: it has 2 cells; the header has 3 columns"),
    "a long row": ({"p.csv": csv("0.7", "0.7,")}, ["--logits"], "p.csv, line 3: it has 4 cells; the header has 3 columns"),
    "an open quote": ({"p.csv": csv("0.7", '"0.7')}, ["--logits"], "p.csv, line 3, column `dog`: got `0.7\\n0,3.0,1.0` (is a quote left open?)"),
    "an unknown name": ({"p.csv": csv("\n1,", "\ncow,")}, ["--logits"], "p.csv, line 3, column `label`: got `cow`; wanted an integer, or class names throughout (`cat` and `dog`)"),
    "numbers and names": ({"p.csv": csv("\n1,", "\ndog,")}, ["--logits"], "p.csv, line 2, column `label`: got `0`, and `dog` in another row: integers and class names are mixed"),
    "capitals": ({"p.csv": csv("\n1,", "\nDog,")}, ["--logits"], "got `Dog`; wanted an integer, or class names throughout (`cat` and `dog`); did you mean `dog`?"),
    "a label like 1.0": ({"p.csv": csv("\n1,", "\n1.0,")}, ["--logits"], "p.csv, line 3, column `label`: got `1.0`; wanted an integer"),
    "csv label too large": ({"p.csv": csv("\n1,", "\n2,")}, ["--logits"], "p.csv: labels must lie in [0, 1] (there are 2 classes); got 2 in line 3, column `label`"),
    "Latin-1": ({"p.csv": csv("0.7", "é").encode("latin-1")}, ["--logits"], "p.csv: it is not UTF-8 text"),
    # records: one field of scores and one label a row
    "jsonl of blanks": ({"p.jsonl": "\n \n"}, [], "p.jsonl holds only blanks"),
    "jsonl without scores": ({"p.jsonl": lines("logits", "logit")}, [], "p.jsonl: there is no field `logits`, `log_probs` or `probs`; it has `label` and `logit`; did you mean `logits`? rename `logit`, as in {\"label\": 0, \"logits\": [2.0, -1.0]}"),
    "jsonl without labels": ({"p.jsonl": lines("label", "Label")}, [], "p.jsonl: there is no field `label`; it has `Label` and `logits`; add it, an integer or a class name a row, or say where the labels are with --labels NAME or FILE; did you mean `Label`?"),
    "jsonl, one without scores": ({"p.jsonl": lines('"logits": [0.1', '"x": [0.1')}, [], "p.jsonl, line 2: there is no field `logits`; it has `label` and `x`"),
    "jsonl, one without a label": ({"p.jsonl": lines('"label": 1, ', "")}, [], "p.jsonl, line 2, field `label`: it is missing or null; wanted a label in every row"),
    "jsonl of one number": ({"p.jsonl": lines("[0.1, 0.7]", "0.7")}, [], "p.jsonl, line 2, field `logits`: got `0.7`; wanted a list of numbers, one a class"),
    "jsonl, ragged": ({"p.jsonl": lines(", 0.7", "")}, [], "p.jsonl, line 2: `logits` has length 1, in the first row 2; wanted one number a class in every row"),
    "jsonl, text": ({"p.jsonl": lines("0.7", '"0.7"')}, [], 'p.jsonl, line 2, `logits`, position 1: got `"0.7"`; wanted a number'),
    "jsonl, true": ({"p.jsonl": lines("0.7", "true")}, [], "p.jsonl, line 2, `logits`, position 1: got `true`; wanted a number"),
    "jsonl, null": ({"p.jsonl": lines("0.7", "null")}, [], "p.jsonl, line 2, `logits`, position 1: got `null`; wanted a number"),
    "jsonl, a list": ({"p.jsonl": lines("0.7", "[0.7]")}, [], "p.jsonl, line 2, `logits`, position 1: got `[0.7]`; wanted a number"),
    "jsonl, huge": ({"p.jsonl": lines("0.7", str(2**1024 - 1))}, [], "p.jsonl, line 2, `logits`, position 1: got `17976931"),
    "jsonl, NaN": ({"p.jsonl": lines("0.7", "NaN")}, [], "p.jsonl, line 2, field `logits`, position 1: got nan; logits must be finite"),
    "jsonl, one class": ({"p.jsonl": '{"label": 0, "logits": [1]}\n' * 2}, [], "p.jsonl: field `logits` has 1 class column; wanted at least two"),
    "jsonl, no class": ({"p.jsonl": '{"label": 0, "logits": []}\n' * 2}, [], "has 0 class columns; wanted at least two"),
    "jsonl, a label of another kind": ({"p.jsonl": lines('"label": 1', '"label": 1.5')}, [], "p.jsonl, line 2, field `label`: got `1.5`; wanted an integer, counted from 0"),
    "jsonl, a label too large": ({"p.jsonl": lines('"label": 1', '"label": 2')}, [], "p.jsonl: labels must lie in [0, 1] (there are 2 classes); got 2 in line 2, field `label`"),
    "jsonl, a label beyond int64": ({"p.jsonl": lines('"label": 1', '"label": 1' + "0" * 30)}, [], "p.jsonl, line 2, field `label`: got `1000"),
    "jsonl, a list of labels": ({"p.jsonl": lines('"label": 1', '"label": [1]')}, [], "p.jsonl, line 2, field `label`: got `[1]`; wanted an integer"),
    "jsonl, names unknown": ({"p.jsonl": lines('"label": 1', '"label": "dog"')}, [], 'p.jsonl, line 2, field `label`: got the class name `"dog"`, and the file does not say which of the scores that is; write labels as integers from 0, or add to the first row a field `class_names`'),
    "jsonl, another name": ({"p.jsonl": lines('"label": 0', '"class_names": ["cat", "dog"], "label": "cow"')}, [], "p.jsonl, line 1, field `label`: got `cow`; wanted an integer, or class names throughout (`cat` and `dog`)"),
    "jsonl, names and numbers": ({"p.jsonl": lines('"label": 0', '"class_names": ["cat", "dog"], "label": "cat"')}, [], "p.jsonl, line 2, field `label`: got `1`, and `cat` in another row: integers and class names are mixed"),
    "jsonl, numbers for names": ({"p.jsonl": lines('"label": 0', '"class_names": ["1", "2"], "label": "1"')}, [], "p.jsonl, line 1, field `label`: labels are class names, and class 0 is named `1`, a number that is not its position"),
    "jsonl, a name too many": ({"p.jsonl": lines('"label": 0', '"class_names": ["a", "b", "c"], "label": 0')}, [], "p.jsonl: `class_names` has 3 names, `logits` 2 numbers a row; wanted one name a class"),
    "jsonl, a name twice": ({"p.jsonl": lines('"label": 0', '"class_names": ["a", "a"], "label": 0')}, [], "p.jsonl, line 1: `class_names` must be a list of different names"),
    "jsonl, no JSON": ({"p.jsonl": lines("0.7]", "0.7")}, [], "p.jsonl, line 2: it cannot be read as JSON (Expecting ',' delimiter); wanted one object a line"),
    "jsonl, a JSON array": ({"p.jsonl": "[" + LINES.strip().replace("\n", ",") + "]"}, [], "p.jsonl, line 1: got `["),
    "jsonl, a name of a field twice": ({"p.jsonl": lines('"label": 0', '"label": 0, "label": 1')}, [], "p.jsonl, line 1: it cannot be read as JSON (a name stands in it twice)"),
    "jsonl, deep": ({"p.jsonl": lines("0.7", "[" * 100_000)}, [], "p.jsonl, line 2: it cannot be read as JSON ("),
    "jsonl, a blank line": ({"p.jsonl": lines("\n", "\n\n")}, [], "p.jsonl, line 2: it is blank; delete the line"),
    "jsonl, Latin-1": ({"p.jsonl": lines("0.7", '"é"').encode("latin-1")}, [], "p.jsonl, line 2: it is not UTF-8 text"),
    "jsonl probabilities": ({"p.jsonl": lines().replace("logits", "probs")}, [], "p.jsonl: probs must be probabilities (each in [0, 1], every row summing to 1); line 1 holds 2"),
    "jsonl, --labels of nothing": ({"p.jsonl": LINES}, ["--labels", "truth"], "--labels truth: p.jsonl has no field of that name (it has `label` and `logits`), and there is no such file"),
    "parquet of text": ({"p.parquet": "a table"}, [], "p.parquet is not a .parquet file"),
    "parquet, cut": ({"p.parquet": parquet(**LISTS)[:-9]}, [], "p.parquet cannot be read: it is damaged or cut short"),
    "parquet, no rows": ({"p.parquet": parquet(logits=pyarrow.array([], pyarrow.list_(pyarrow.float32())), label=pyarrow.array([], pyarrow.int64()))}, [], "p.parquet: column `logits` "),
    "parquet of columns": ({"p.parquet": parquet(label=Y, cat=Z[:, 0], dog=Z[:, 1])}, [], "p.parquet: there is no column `logits`, `log_probs` or `probs`; it has `label`, `cat` and `dog`"),
    "parquet of numbers": ({"p.parquet": parquet(logits=Z[:, 0], label=Y)}, [], "p.parquet: column `logits` holds double; wanted a list of K numbers in each row"),
    "parquet of lists of text": ({"p.parquet": parquet(logits=[["a", "b"]] * 4, label=Y)}, [], "p.parquet: column `logits` holds list<"),
    "parquet, null": ({"p.parquet": parquet(**LISTS | {"logits": [[1.0, 2.0], None, [1.0, 2.0], None]})}, [], "p.parquet, row 1, column `logits`: it is null"),
    "parquet, null first": ({"p.parquet": parquet(**LISTS | {"logits": [None, [1.0, 2.0], None, [1.0, 2.0]]})}, [], "p.parquet, row 0, column `logits`: it is null"),
    "parquet, ragged": ({"p.parquet": parquet(**LISTS | {"logits": [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0, 3.0], [1.0]]})}, [], "p.parquet, row 2: `logits` has length 3, in the first row 2"),
    "parquet, null inside": ({"p.parquet": parquet(**LISTS | {"logits": [[1.0, 2.0], [1.0, None], [1.0, 2.0], [1.0, 2.0]]})}, [], "p.parquet, row 1, `logits`, position 1: got `null`; wanted a number"),
    "parquet, NaN": ({"p.parquet": parquet(**LISTS | {"logits": put(2, 1, np.nan).tolist()})}, [], "p.parquet, row 2, column `logits`, position 1: got nan"),
    "parquet, float labels": ({"p.parquet": parquet(**LISTS | {"label": [0.0, 1.0, 2.0, np.nan]})}, [], "p.parquet, row 0, column `label`: got `0.0`; wanted an integer"),
    "parquet, bool labels": ({"p.parquet": parquet(**LISTS | {"label": [True, False, True, True]})}, [], "p.parquet, row 0, column `label`: got `true`; wanted an integer"),
    "parquet, null label": ({"p.parquet": parquet(**LISTS | {"label": [0, 1, None, 1]})}, [], "p.parquet, row 2, column `label`: it is missing or null"),
    "UTF-16": ({"p.csv": CSV.encode("utf-16")}, ["--logits"], "p.csv, line 1: it is not UTF-8 text"),
}  # fmt: skip


@pytest.mark.parametrize("command", ["calibrate", "report", "evaluate"])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_predictions(run, tmp_path, case, command):
    files, flags, sentence = WRONG[case]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    out = tmp_path / ("out.html" if command == "report" else "out")
    out.write_text("as it was")
    before = sorted(p.name for p in tmp_path.iterdir())
    ran = run(command, next(iter(files)), *flags, *([] if command == "evaluate" else ["-o", out.name]))
    assert_told(ran, sentence)
    assert out.read_text() == "as it was"
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def assert_told(ran, sentence):
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("softargmax: error: ")
    assert ran.err.count("\n") == 1
    assert sentence in ran.err


def test_the_library_says_the_same_sentence(run, tmp_path):
    (tmp_path / "p.npz").write_bytes(npz(logits=Z, labels=Y[:3]))
    with pytest.raises(ValueError, match="has 3 labels") as error:
        read_predictions("p.npz")
    assert run("calibrate", "p.npz", "-o", "c.json").err == f"softargmax: error: {error.value}\n"


def test_a_folder_for_a_file(run, tmp_path, preds):
    (tmp_path / "folder.npz").mkdir()
    assert_told(run("evaluate", "folder.npz"), "folder.npz is a folder; give a file")
    assert_told(run("calibrate", preds, "-o", "folder.npz"), "cannot write folder.npz: it is a folder")
    assert_told(run("evaluate", preds, "--labels", "folder.npz"), "folder.npz is a folder")


def test_a_missing_file_and_its_nearest_neighbour(run, preds):
    assert_told(run("evaluate", "pred.npz"), "there is no file pred.npz; did you mean `preds.npz`?")
    assert_told(run("evaluate", "no/preds.npz"), "there is no folder no")


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"logits": Z[:1], "labels": Y[:1]}, "two rows"),
        ({"logits": Z, "labels": Y * 0}, "class"),
    ],
)
def test_nothing_to_calibrate_by(run, tmp_path, arrays, sentence):
    (tmp_path / "p.npz").write_bytes(npz(**arrays))
    assert_told(run("calibrate", "p.npz", "-o", "c.json"), sentence)
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize("command", ["calibrate", "report"])
@pytest.mark.parametrize("out", ["/proc/nope", "no/such/folder/out"])
def test_where_nothing_can_be_written(run, preds, command, out):
    out += ".html" if command == "report" else ""
    assert_told(run(command, preds, "-o", out), f"cannot write {out}")


@pytest.mark.parametrize("under", ["", "a/b"])
def test_a_demo_folder_that_cannot_be(run, preds, under):
    assert_told(run("demo", "-o", preds / under), f"{preds} is a file; give a folder")


def test_a_demo_that_fails_leaves_no_folder(run, tmp_path, monkeypatch):
    def full(file, content):
        raise ValueError("the disk is full")

    monkeypatch.setattr("softargmax._files.write_whole", full)
    assert_told(run("demo", "-o", "a/b"), "the disk is full")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    assert_told(run("demo", "-o", "a/b"), "the disk is full")
    assert [p.name for p in tmp_path.rglob("*")] == ["a"]


@pytest.mark.parametrize("command", ["calibrate", "report", "apply"])
def test_a_missing_folder_is_told_before_the_work(run, tmp_path, command):
    os.mkfifo(tmp_path / "p.npz")  # reading it would wait for ever
    words = ["p.npz"] if command != "apply" else ["cal.json", "p.npz"]
    assert_told(run(command, *words, "-o", "no/out.npz"), f"cannot write no/out.npz: there is no folder {tmp_path}/no")


@pytest.mark.parametrize("command", ["calibrate", "report", "evaluate", "apply"])
def test_a_link_to_itself(run, preds, tmp_path, command):
    (tmp_path / "loop.npz").symlink_to("loop.npz")
    if command != "evaluate":
        run("calibrate", preds, "-o", "cal.json", "--method", "TemperatureScaling")
        words = ["cal.json", preds] if command == "apply" else [preds]
        assert_told(run(command, *words, "-o", "loop.npz"), "cannot write loop.npz: ")
    words = ["cal.json", "loop.npz"] if command == "apply" else ["loop.npz"]
    output = [] if command == "evaluate" else ["-o", "out.html" if command == "report" else "out.npz"]
    assert_told(run(command, *words, *output), "there is no file loop.npz: it is a link that leads to none")
    assert (tmp_path / "loop.npz").is_symlink()


def test_calibrator_and_predictions_swapped(run, preds):
    ran = run("apply", preds, "cal.json", "-o", "out.npz")
    assert_told(ran, "cal.json is no file of predictions; the order is CAL.json PREDS")


def test_apply_too_refuses_a_column_that_is_no_class(run, tmp_path, preds):
    run("calibrate", preds, "-o", "cal.json", "--method", "TemperatureScaling")
    (tmp_path / "p.csv").write_text("id,a,b\n1,2,3\n")
    assert_told(run("apply", "cal.json", "p.csv", "--logits", "-o", "out.csv"), "column `id` is no class name")
