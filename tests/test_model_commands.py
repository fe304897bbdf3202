"""fit, encode, reconstruct, score, sample and info, as users call them; and tables on disk."""

import json
import signal
import subprocess
import sys

import numpy as np
import pandas
import pytest
from test_cli import called
from test_estimator import table

from truvae import TVAE, InputError, load_model
from truvae.tables import read_named_table, read_table, write_table


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Return a folder with data.csv, which misses values, and a model of it."""
    folder = tmp_path_factory.mktemp("tables")
    x, _ = table(missing=0.1)
    lines = [",".join(f"gene{i}" for i in range(12))]
    lines += [",".join("" if np.isnan(v) else f"{v:.9g}" for v in row) for row in x]
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    done = called("fit", folder / "data.csv", "-o", folder / "model", "--latents", 8, "--hidden", 8,
               "--states", 8, "--epochs", 3, "--json", "-q")  # fmt: skip
    return folder, x, done


def test_fit_says_what_was_learned(fitted):
    folder, x, done = fitted
    assert done.returncode == 0 and done.stderr == ""
    record = json.loads(done.stdout)
    assert record["n_data"] == 300 and record["n_features"] == 12 and record["epochs"] == 3
    assert record["interrupted"] is False
    est = TVAE(n_latents=8, hidden=(8,), n_states=8, max_epochs=3, random_state=0).fit(x)
    assert record["elbo"] == pytest.approx(est.elbo_, rel=1e-3)
    assert record["sigma"] == pytest.approx(est.sigma_, rel=1e-3)
    assert sorted(p.name for p in (folder / "model").iterdir()) == [
        "config.json", "model.safetensors"
    ]  # fmt: skip


def test_fit_says_it_to_people_in_few_digits(fitted):
    folder, _, done = fitted
    record = json.loads(done.stdout)
    options = ["--latents", 8, "--hidden", 8, "--states", 8, "--epochs", 3, "-q"]
    told = called("fit", folder / "data.csv", "-o", folder / "again", *options).stdout
    assert "  300 rows of 12 features  F " in told
    assert f"  F {record['elbo']:.2f}  sigma {record['sigma']:.4g}  " in told


def test_a_signal_ends_the_training_within_an_epoch(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(60_000, 16)))
    command = [sys.executable, "-m", "truvae", "fit", tmp_path / "x.npy", "-o", tmp_path / "model",
               "--latents", "8", "--states", "4", "--json", "--seed", "1", "-v"]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert any("epoch 1 " in line for line in process.stderr)  # reads no further
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 130 and "Traceback" not in stderr
    assert json.loads(stdout)["epochs"] <= 2 and (tmp_path / "model" / "config.json").exists()


def test_what_the_commands_write_is_what_the_estimator_says(fitted):
    pandas = pytest.importorskip("pandas")
    folder, x, _ = fitted
    est = TVAE.load(folder / "model")
    np.save(folder / "data.npy", x)
    x = pandas.DataFrame(x, columns=[f"gene{i}" for i in range(12)])
    for arguments, expected in [
        (["encode"], est.encode(x)),
        (["encode", "--means"], est.transform(x)),
        (["reconstruct"], est.reconstruct(x)),
        (["score"], est.score_samples(x)),
    ]:
        done = called(arguments[0], folder / "model", folder / "data.npy", "-o", folder / "out.npy",
                   *arguments[1:])  # fmt: skip
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(np.load(folder / "out.npy"), expected, rtol=1e-4, atol=1e-4)
    assert called("sample", folder / "model", "-n", 5, "-o", folder / "drawn.csv").returncode == 0
    np.testing.assert_allclose(read_table(str(folder / "drawn.csv")), est.sample(5, 0), rtol=1e-5)
    told = json.loads(called("info", folder / "model", "--json").stdout)
    assert told["kind"] == "estimator" and told["noise"]["kind"] == "Gaussian"
    assert told["decoder"]["sizes"] == [8, 8, 12]


def test_bad_input_is_one_line_and_nothing_is_written(fitted, tmp_path):
    folder, _, _ = fitted
    out, data = tmp_path / "x.npy", folder / "data.csv"
    for arguments, message in [
        (["fit", folder / "none.npy", "-o", tmp_path / "m"], "there is no file"),
        (["fit", data, "-o", folder], "holds other things"),
        (["fit", data, "-o", tmp_path / "m", "--latents", 2], "only 4 states"),
        (["encode", folder, data, "-o", out], "it has no config.json"),
        (["encode", folder / "model", data, "-o", f"{out}.png"], "must be .npy"),
    ]:
        done = called(*arguments)
        assert done.returncode == 2 and message in done.stderr
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["t.npy", "t.csv", "t.tsv"])
def test_tables_come_back_as_they_were(tmp_path, name):
    x = np.array([[1.5, np.nan, -3e-7], [2.0, 1e9, 0.1]])
    write_table(tmp_path / name, x)
    np.testing.assert_allclose(read_table(str(tmp_path / name)), x, rtol=1e-8)
    write_table(tmp_path / name, np.eye(3, dtype=np.uint8))
    np.testing.assert_array_equal(read_table(str(tmp_path / name)), np.eye(3))


def test_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py")
    x = np.arange(12.0).reshape(3, 2, 2)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["one/x"] = x
    np.testing.assert_array_equal(read_table(str(tmp_path / "a.h5")), x.reshape(3, 4))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["y"] = x[0]
    np.testing.assert_array_equal(read_table(f"{tmp_path}/a.h5:y"), x[0])
    np.testing.assert_array_equal(read_table(f"{tmp_path}/a.h5:/one/x"), x.reshape(3, 4))
    with pytest.raises(InputError, match="one of one/x, y"):
        read_table(str(tmp_path / "a.h5"))
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file.create_group("one")
    with pytest.raises(InputError, match=r"empty\.h5 has no data set"):
        read_table(str(tmp_path / "empty.h5"))


@pytest.mark.parametrize(("text", "message"), [
    ("a,b\n1,2\n3\n", "row 3 has 1 values, others 2"),
    ("1,2\n3,x\n", "row 2, column 2 is no number: 'x'"),
    ("", "a table has rows and features"),
    ("a,b,c,d\n1,2\n", "row 1 has 4 names, others 2 values"),
])  # fmt: skip
def test_bad_tables_are_told(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_table(str(tmp_path / "t.csv"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_names_gaps_and_delimiters(tmp_path, delimiter):
    lines = [["a", "b"], ["1", "NA"], ["", "2.5"], ["3", "nan"]]
    (tmp_path / "t.csv").write_text("\n".join(map(delimiter.join, lines)))
    expected = [[1, np.nan], [np.nan, 2.5], [3, np.nan]]
    np.testing.assert_array_equal(read_table(str(tmp_path / "t.csv")), expected)


def test_the_model_of_a_picture_is_saved(tmp_path):
    noisy = np.random.default_rng(0).normal(100, 20, (24, 24)).astype(np.float32)
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, noisy)
    (tmp_path / "models").mkdir()
    done = called("denoise", tmp_path / "a.npy", tmp_path / "b.npy", "-o", tmp_path / "models",
               "--save-model", tmp_path / "models", "--epochs", 2, "--json", "-q")  # fmt: skip
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["saved_model"] for record in records] == [
        str(tmp_path / "models" / stem) for stem in "ab"
    ]
    saved = load_model(tmp_path / "models" / "a")
    assert saved.model.n_latents == records[0]["n_latents"]
    assert saved.config["spread"][0] == pytest.approx(noisy.std(), rel=1e-3)
    told = json.loads(called("info", tmp_path / "models" / "a", "--json").stdout)
    assert told["kind"] == "restoration" and told["patch_size"] == records[0]["patch_size"]
    assert told["elbo"] == pytest.approx(records[0]["elbo"]) and told["epochs"] == 2
    assert told["n_features"] is None
    lines = called("info", tmp_path / "models" / "a").stdout
    assert "epochs       2\n" in lines and "None" not in lines
    done = called("denoise", tmp_path / "a.npy", "-o", tmp_path / "x.npy", "--save-model", tmp_path)
    assert done.returncode == 2 and "holds other things" in done.stderr


def test_what_is_missing_at_the_end_is_missing(tmp_path):
    (tmp_path / "t.tsv").write_text("1\t2\n3\t\n\n")
    np.testing.assert_array_equal(read_table(str(tmp_path / "t.tsv")), [[1, 2], [3, np.nan]])
    (tmp_path / "t.csv").write_text("x\n1\n\n")
    np.testing.assert_array_equal(read_table(str(tmp_path / "t.csv")), [[1], [np.nan]])


def test_a_first_line_with_numbers_is_no_line_of_names(tmp_path):
    (tmp_path / "t.csv").write_text("5.1,-,1.4\n4.9,3.0,1.4\n")
    with pytest.raises(InputError, match="row 1, column 2 is no number: '-'"):
        read_table(str(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_text("id,2019,2020\n1,4.9,3.0\n")
    np.testing.assert_array_equal(read_table(str(tmp_path / "t.csv")), [[1, 4.9, 3]])


def test_a_table_is_not_written_over_itself(fitted):
    folder, x, _ = fitted
    np.save(folder / "same.npy", x)
    done = called("encode", folder / "model", folder / "same.npy", "-o", folder / "same.npy")
    assert done.returncode == 2 and "is an input" in done.stderr
    np.testing.assert_array_equal(np.load(folder / "same.npy"), x)


@pytest.mark.parametrize(("header", "names"), [
    ("0,1,2", ["0", "1", "2"]),
    ("1,2,3", ["1", "2", "3"]),
    ("a, b,2020", ["a", "b", "2020"]),
    ("2,1,0", None),
    ("0,1,1", None),
    ("0.0,1.0,2.0", None),
])  # fmt: skip
def test_a_first_line_that_counts_the_columns_is_one_of_names(tmp_path, header, names):
    (tmp_path / "t.csv").write_text(f"{header}\n5,6,7\n")
    values, found = read_named_table(str(tmp_path / "t.csv"))
    assert found == names and len(values) == (2 if names is None else 1)
    (tmp_path / "t.csv").write_text("0,1,2\n")  # nothing else: a row
    assert len(read_table(str(tmp_path / "t.csv"))) == 1


@pytest.mark.parametrize("text", [
    ",a,b\n7,1,2\n3,4,5\n",  # pandas
    ",0,1\n0,1,2\n1,4,5\n",
    "a,b\nx,1,2\ny,4,5\n",  # R, whose names of rows may be words
])  # fmt: skip
def test_names_of_rows_are_no_feature(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.warns(UserWarning, match="the first column has no name"):
        values, names = read_named_table(str(tmp_path / "t.csv"))
    np.testing.assert_array_equal(values, [[1, 2], [4, 5]])
    assert names == (["0", "1"] if "0" in text else ["a", "b"])


def test_names_of_rows_are_told_of_in_one_line(fitted, tmp_path):
    folder, x, _ = fitted
    pandas.DataFrame(x, columns=[f"gene{i}" for i in range(12)]).to_csv(tmp_path / "t.csv")
    done = called("score", folder / "model", tmp_path / "t.csv", "-o", tmp_path / "out.npy")
    assert done.returncode == 0 and done.stderr.count("\n") == 1
    assert "note: " in done.stderr and "the first column has no name" in done.stderr
    done = called("fit", tmp_path / "t.csv", "-o", tmp_path / "model", "--epochs", 1, "--json")
    assert json.loads(done.stdout)["n_features"] == 12
    assert "the first column has no name" in done.stderr


def test_columns_are_those_of_the_training(fitted, tmp_path):
    folder, _, _ = fitted
    rows = [line.split(",") for line in (folder / "data.csv").read_text().splitlines()]
    swapped = [[b, a, *rest] for a, b, *rest in rows]
    for name, table_rows, code in [("same", rows, 0), ("nameless", rows[1:], 0),
                                   ("swapped", swapped, 2), ("fewer", swapped, 2)]:  # fmt: skip
        kept = [row[:5] for row in table_rows] if name == "fewer" else table_rows
        (tmp_path / "t.csv").write_text("\n".join(map(",".join, kept)) + "\n")
        done = called("score", folder / "model", tmp_path / "t.csv", "-o", tmp_path / "out.npy")
        assert done.returncode == code, done.stderr
        told = {"swapped": "column 1 of * is 'gene1', of the model 'gene0': give the columns",
                "fewer": "has 5 columns, the model was trained on 12"}.get(name, "")  # fmt: skip
        assert all(part in done.stderr for part in told.split("*"))
        assert done.stderr.count("\n") == (code > 0)


def test_a_value_that_is_too_far_is_told_in_one_line(fitted, tmp_path):
    folder, x, _ = fitted
    x = x.copy()
    x[2, 1] = 1e20
    np.save(tmp_path / "far.npy", x)
    done = called("score", folder / "model", tmp_path / "far.npy", "-o", tmp_path / "out.npy")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "the value 1e+20 in row 2, column 1" in done.stderr


def test_fit_tells_its_warnings_as_notes(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 3)) * [1e4, 1, 1]
    np.save(tmp_path / "x.npy", x)
    options = ["--latents", 4, "--states", 4, "--epochs", 1, "--json"]
    done = called("fit", tmp_path / "x.npy", "-o", tmp_path / "model", *options)
    assert done.returncode == 0
    assert "truvae: note: the standard deviation of feature 0 is" in done.stderr
    assert "UserWarning" not in done.stderr
