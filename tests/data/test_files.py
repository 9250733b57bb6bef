import bz2
import gzip
import json
import lzma

import pandas as pd
import pyarrow
import pyarrow.feather
import pytest

from lgrpo_lightning.data.files import PromptFile
from lgrpo_lightning.data.readers import READERS, find_suffix

ROWS = [{"prompt": "1+1=", "answer": 2}, {"prompt": "Zürich →\n日本", "answer": 3}]
CHAT = [{"role": "user", "content": "1+1?"}]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def lines(*rows):
    return "\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n"


def test_every_format_gives_the_same_rows(tmp_path):
    import datasets

    frame = pd.DataFrame(ROWS)
    write(tmp_path / "p.jsonl", lines(*ROWS))
    frame.to_parquet(tmp_path / "p.parquet")
    frame.to_csv(tmp_path / "p.csv", index=False)
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    for name in ("p.jsonl", "p.parquet", "saved"):
        assert PromptFile(str(tmp_path / name)).rows() == ROWS, name
    assert PromptFile(str(tmp_path / "p.csv"), infer_types=True).rows() == ROWS
    assert PromptFile(str(tmp_path / "p.csv")).rows() == [r | {"answer": str(r["answer"])} for r in ROWS]


def test_messages_survive_jsonl_and_parquet(tmp_path):
    row = {"prompt": CHAT, "answer": "2"}
    write(tmp_path / "p.jsonl", lines(row))
    pd.DataFrame([row]).to_parquet(tmp_path / "p.parquet")
    for name in ("p.jsonl", "p.parquet"):
        assert PromptFile(str(tmp_path / name)).rows() == [row]


def test_blank_lines_and_a_byte_order_mark_are_no_rows(tmp_path):
    path = write(tmp_path / "p.jsonl", "\ufeff" + lines(ROWS[0]) + "\n  \n" + lines(ROWS[1]))
    assert PromptFile(path).rows() == ROWS


def test_a_csv_prompt_stays_text_and_may_hold_newlines_and_commas(tmp_path):
    path = write(tmp_path / "p.csv", 'prompt,answer\n42,007\n"1,\n2",8\n')
    assert PromptFile(path).rows() == [{"prompt": "42", "answer": "007"}, {"prompt": "1,\n2", "answer": "8"}]


def test_another_prompt_column_is_kept_as_a_column_too(tmp_path):
    path = write(tmp_path / "p.jsonl", lines({"question": "1+1=", "answer": 2}))
    assert PromptFile(path, prompt_column="question").rows() == [{"question": "1+1=", "answer": 2, "prompt": "1+1="}]


def test_a_limit_takes_the_first_rows(tmp_path):
    path = write(tmp_path / "p.jsonl", lines(*ROWS))
    assert PromptFile(path, limit=1).rows() == ROWS[:1]


def test_a_saved_data_set_gives_its_split(tmp_path):
    import datasets

    parts = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "two"))
    datasets.DatasetDict({"train": parts["train"]}).save_to_disk(str(tmp_path / "one"))
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "none"))
    assert PromptFile(str(tmp_path / "two"), split="test").rows() == ROWS[:1]
    assert PromptFile(str(tmp_path / "one")).rows() == ROWS
    with pytest.raises(ValueError, match=r"several splits. Set split to one of: 'train', 'test'"):
        PromptFile(str(tmp_path / "two")).rows()
    with pytest.raises(ValueError, match=r"no split 'dev'. Set split to one of: 'train', 'test'"):
        PromptFile(str(tmp_path / "two"), split="dev").rows()
    with pytest.raises(ValueError, match="without splits; leave split='train' out"):
        PromptFile(str(tmp_path / "none"), split="train").rows()


def test_a_hub_name_is_loaded_with_its_subset(monkeypatch):
    import datasets

    seen = []

    def load_dataset(*arguments, streaming):
        seen.append((*arguments, streaming))
        return datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert PromptFile("owner/name", subset="main").rows() == ROWS
    assert seen == [("owner/name", "main", False)]


def test_an_unknown_hub_name_says_everything_it_is_not(monkeypatch):
    import datasets

    def load_dataset(*_, **__):
        raise datasets.exceptions.DatasetNotFoundError("not on the hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(FileNotFoundError, match=r"owner/nam is neither a file, nor a folder.*not on the hub"):
        PromptFile("owner/nam").rows()


BAD = {
    "malformed": (
        "p.jsonl",
        lines(ROWS[0]) + '{"prompt": "2+2=",\n',
        r"p.jsonl, line 2: not valid JSON \(.*column",
    ),
    "no object": ("p.jsonl", lines(ROWS[0]) + "[1, 2]\n", "p.jsonl, line 2: a list, where a JSON object"),
    "empty": ("p.jsonl", "", r"p.jsonl is empty. It needs at least one row with a 'prompt'"),
    "only blank lines": ("p.jsonl", "\n\n", "p.jsonl is empty"),
    "empty CSV": ("p.csv", "", "p.csv is empty"),
    "CSV of a header": ("p.csv", "prompt,answer\n", "p.csv is empty"),
    "ragged CSV": (
        "p.csv",
        "prompt,answer\na,1\nb,2,3\n",
        "p.csv, line 3: 3 cells, and the header has 2",
    ),
    "open quote": ("p.csv", 'prompt,answer\n"1+1=,2\n', "p.csv, line 2: not valid CSV"),
    "not Parquet": ("p.parquet", "hello", "p.parquet is not a readable Parquet file"),
    "no prompt": (
        "p.jsonl",
        lines({"question": "1+1=", "answer": 2}),
        r"p.jsonl, row 0 \(from 0\): there is no column 'prompt'; the columns are 'question', 'answer'. ",
    ),
    "no prompt later": (
        "p.jsonl",
        lines(ROWS[0], {"answer": 2}),
        r"row 1 \(from 0\): there is no column 'prompt'",
    ),
    "extension": (
        "p.yaml",
        "1+1=",
        r"p.yaml: cannot read .yaml. Possible are .jsonl, .json, .ndjson, .csv, .tsv, .txt, .parquet, ",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named_with_its_place(tmp_path, case):
    name, text, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        PromptFile(write(tmp_path / name, text)).rows()


def test_a_missing_file_and_a_foreign_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*nowhere.jsonl \(looked in "):
        PromptFile(str(tmp_path / "nowhere.jsonl")).rows()
    with pytest.raises(FileNotFoundError, match=r"a folder, but not one written by datasets.save_to_disk"):
        PromptFile(str(tmp_path)).rows()


def test_dataset_options_do_not_go_with_a_file(tmp_path):
    path = write(tmp_path / "p.jsonl", lines(*ROWS))
    with pytest.raises(ValueError, match="is a file; split='train' is for saved and hub data sets"):
        PromptFile(path, split="train").rows()
    with pytest.raises(ValueError, match="is a file; subset='main'"):
        PromptFile(path, subset="main").rows()


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="limit is 0; it must be at least 1"):
        PromptFile("p.jsonl", limit=0)


def test_columns_of_a_csv_file_are_text(tmp_path):
    cells = {
        "time": "12:30",
        "long": "123456789012345678901",
        "code": "007",
        "date": "2024-01-02",
        "no": "NaN",
        "yes": "true",
    }
    path = write(tmp_path / "p.csv", f"prompt,{','.join(cells)}\n1+1=,{','.join(cells.values())}\n")
    assert PromptFile(path).rows() == [{"prompt": "1+1=", **cells}]
    assert PromptFile(path, infer_types=True).rows()[0]["code"] == 7


# ------------------------------------------------------------------------------------------ shards


def shards(folder, *names):
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"prompt": f"{number}+{i}=", "answer": str(number + i)} for i in range(2)]
        if name.endswith(".parquet"):
            pd.DataFrame(rows).to_parquet(path)
        elif name.endswith(".gz"):
            path.write_bytes(gzip.compress(lines(*rows).encode()))
        elif name.endswith(".csv"):
            pd.DataFrame(rows).to_csv(path, index=False)
        else:
            path.write_text(lines(*rows) if name.endswith(".jsonl") else "not rows")
    return folder


@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".csv", ".jsonl.gz"])
@pytest.mark.parametrize("how", ["{}", "{}/*{e}", "{}/train-?????-of-00003{e}", "{}/**/*{e}"])
def test_folders_and_patterns(tmp_path, ending, how):
    names = [f"train-{i:05d}-of-00003{ending}" for i in range(3)]
    shards(tmp_path / "data", *names, "README.md", ".hidden/x.jsonl")
    rows = PromptFile(how.format(tmp_path / "data", e=ending)).rows()
    assert [r["prompt"] for r in rows] == [f"{n}+{i}=" for n in range(3) for i in range(2)]


def test_folders_in_folders(tmp_path):
    shards(tmp_path, "b/1.jsonl", "a/2.jsonl")
    assert [r["prompt"] for r in PromptFile(str(tmp_path)).rows()] == ["1+0=", "1+1=", "0+0=", "0+1="]


@pytest.mark.parametrize(
    ("names", "path", "said"),
    [
        (("a.jsonl", "b.csv"), ".", r"files of several kinds \(.csv, .jsonl\)"),
        (("train-00000-of-00001.jsonl", "test-00000-of-00001.jsonl"), ".", r"several splits \(test, train\)"),
        (("train.jsonl", "test.jsonl"), ".", r"several splits \(test, train\)"),
        (("train.jsonl", "val_0.jsonl"), "*.jsonl", r"several splits \(train, val\)"),
        (("train/0.jsonl", "test/0.jsonl"), ".", r"several splits \(test, train\)"),
        (("more.jsonl", "test.jsonl"), ".", r"several splits \(test beside files of none\)"),
        (("a.jsonl",), "*.parquet", r"No file matches .*\*.parquet"),
        (("a.md",), "*.md", "is no data; possible are files .jsonl"),
        (("a.jsonl",), "?.jsonl", r"split='train' is for saved and hub data sets"),
    ],
)
def test_shards_that_cannot_be_read(tmp_path, names, path, said):
    source = PromptFile(str(shards(tmp_path, *names) / path), split="train" if "split=" in said else None)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        source.rows()


def test_a_bad_line_names_its_shard(tmp_path):
    shards(tmp_path, "a.jsonl", "b.jsonl")
    (tmp_path / "b.jsonl").write_text('{"prompt": "1"}\n{"prompt": \n')
    with pytest.raises(ValueError, match=r"b.jsonl, line 2: not valid JSON"):
        PromptFile(str(tmp_path)).rows()


def test_a_csv_file_with_two_columns_of_one_name(tmp_path):
    with pytest.raises(ValueError, match=r"several columns called 'answer'; rename them"):
        PromptFile(write(tmp_path / "p.csv", "prompt,answer,answer\n1+1=,2,3\n")).rows()


PACK = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pyarrow.compress(data, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("cut", [True, False])
def test_a_broken_compressed_file_is_named(tmp_path, packed, cut):
    path = tmp_path / f"p.jsonl{packed}"
    path.write_bytes(PACK[packed](b'{"prompt": "1"}\n' * 99)[:20] if cut else b"not compressed")
    with pytest.raises(ValueError, match=rf"p.jsonl{packed} is not a whole (gzip|bz2|xz|zstd) file"):
        PromptFile(str(path)).rows()


def written(path, rows):
    """``rows`` in a file of any kind that can be read."""
    frame, kind, packed = pd.DataFrame(rows), find_suffix(path), path.suffix.lower()
    table = pyarrow.Table.from_pylist(rows)
    if kind in (".parquet", ".pq"):
        frame.to_parquet(path)
    elif kind == ".feather":
        pyarrow.feather.write_feather(table, path)
    elif kind == ".arrow":  # as datasets writes it
        with pyarrow.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)
    else:
        inner = kind.removesuffix(packed) if packed in PACK else kind
        texts = {".json": json.dumps(rows, indent=1), ".tsv": frame.to_csv(index=False, sep="\t")}
        texts |= {".csv": frame.to_csv(index=False), ".txt": "".join(f"{r['prompt']}\n\n" for r in rows)}
        content = texts.get(inner, lines(*rows)).encode()
        path.write_bytes(PACK[packed](content) if packed in PACK else content)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("how", ["{}", "{}/*"])
def test_every_kind_of_shard_is_read(tmp_path, kind, how):
    rows = [{"prompt": f"{i}+1=\n\t'é'", "answer": f"0{i}"} for i in range(4)]
    if kind.startswith(".txt"):
        rows = [{"prompt": f" {i}+1=\t'é'"} for i in range(4)]
    for shard in range(2):
        written(tmp_path / f"train-{shard}{kind.upper() if shard else kind}", rows[2 * shard : 2 * shard + 2])
    for name in (
        "README.md",
        "LICENSE",
        "licence.txt",
        "_SUCCESS",
        "dataset_info.json",
        ".gitattributes",
        "load.py",
    ):
        (tmp_path / name).write_text("{}")
    (tmp_path / "_logs").mkdir()
    assert PromptFile(how.format(tmp_path)).rows() == rows


@pytest.mark.parametrize(
    "kind",
    [".zip", ".parquet.gz", ".arrow.zst", ".jsonl.lz4", ".jsonl.part", ".xlsx", ".h5", ".yaml", ""],
)
@pytest.mark.parametrize("how", ["{}", "{}/*", "{}/**/*"])
def test_shards_of_another_kind_are_refused_by_name(tmp_path, kind, how):
    shards(tmp_path, "a/0.jsonl")
    (tmp_path / "a" / f"data1{kind}").write_text("x")
    with pytest.raises(
        ValueError, match=rf"holds files that cannot be read: (a/)?data1{kind}\. Possible are \.jsonl, "
    ):
        PromptFile(how.format(tmp_path / "a" if how == "{}/*" else tmp_path)).rows()


def test_links_among_shards(tmp_path):
    shards(tmp_path, "data/0.jsonl", "far/1.jsonl")
    (tmp_path / "data" / "more").symlink_to(tmp_path / "far", target_is_directory=True)
    assert len(PromptFile(str(tmp_path / "data")).rows()) == 4
    (tmp_path / "data" / "again.jsonl").symlink_to(tmp_path / "data" / "0.jsonl")
    with pytest.raises(ValueError, match="holds a file under two names"):
        PromptFile(str(tmp_path / "data")).rows()
    (tmp_path / "data" / "again.jsonl").unlink()
    (tmp_path / "data" / "gone.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    with pytest.raises(FileNotFoundError, match=r"gone.jsonl"):
        PromptFile(str(tmp_path / "data")).rows()


@pytest.mark.parametrize("kind", [".jsonl", ".csv.gz", ".parquet", ".arrow", ".jsonl.xz"])
def test_urls(tmp_path, kind):
    rows = [{"prompt": f"{i}+1=", "answer": f"00{i}"} for i in range(4)]
    for shard in range(2):
        written(tmp_path / f"train-{shard}{kind}", rows[2 * shard : 2 * shard + 2])
    assert PromptFile(f"file://{tmp_path}/train-0{kind}").rows() == rows[:2]
    assert PromptFile(f"file://{tmp_path}/train-*{kind}").rows() == rows
    with pytest.raises(FileNotFoundError, match="No file matches file://"):
        PromptFile(f"file://{tmp_path}/test-*{kind}").rows()
    with pytest.raises(ValueError, match=r"a.yaml: cannot read .yaml"):
        PromptFile(f"file://{tmp_path}/a.yaml").rows()


# ------------------------------------------------------------------------------------------ JSON and CSV as found


@pytest.mark.parametrize("name", ["p.json", "p.jsonl"])
def test_an_array_and_lines_under_either_name(tmp_path, name):
    for text in (json.dumps(ROWS), "\ufeff\n " + json.dumps(ROWS, indent=2), lines(*ROWS)):
        assert PromptFile(write(tmp_path / name, text)).rows() == ROWS


def test_a_byte_order_mark_on_every_line(tmp_path):
    path = write(tmp_path / "p.jsonl", "".join("\ufeff" + lines(row) for row in ROWS) + "\ufeff\n")
    assert PromptFile(path).rows() == ROWS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"prompt": "1"}\n{"prompt": ' + "[" * 5000 + "]" * 5000 + "}",
            "line 2: JSON that Python does not read",
        ),
        ('[{"prompt": "1"},\n {"prompt": }]', "line 2: not valid JSON"),
        ('{"prompt": "1", "answer": 1' + "0" * 5000 + "}", "line 1: JSON that Python does not read"),
        (
            '{\n "prompt": "1"\n}',
            "line 1: not valid JSON .* one JSON object, .* or the file one array of them",
        ),
        ('[{"prompt": "1"}, 3]', r"entry 1 \(from 0\) of the array: a int, where a JSON object"),
    ],
)
def test_json_that_cannot_be_read(tmp_path, text, said):
    with pytest.raises(ValueError, match=rf"p.jsonl, {said}"):
        PromptFile(write(tmp_path / "p.jsonl", text)).rows()


def test_a_row_that_is_no_utf8_names_its_line(tmp_path):
    (tmp_path / "p.csv").write_bytes(b"prompt,answer\r\n1+1=,2\r\nZ\xfcrich,3\r\n")
    with pytest.raises(ValueError, match=r"p.csv, line 3: not UTF-8 \(byte 0xfc at column 2\)"):
        PromptFile(str(tmp_path / "p.csv")).rows()


@pytest.mark.parametrize("types", [True, False])
def test_csv_as_excel_writes_it(tmp_path, types):
    """A byte order mark, semicolons, line breaks in cells, and cells of megabytes."""
    long = "x" * 3_000_000
    text = f'\ufeffprompt;"answer";note\r\n"1, 2;\r\n3";a;{long}\r\n"say ""so""";b;c\r\n'
    (tmp_path / "p.csv").write_bytes(text.encode())
    rows = PromptFile(str(tmp_path / "p.csv"), infer_types=types).rows()
    assert rows == [
        {"prompt": "1, 2;\r\n3", "answer": "a", "note": long},
        {"prompt": 'say "so"', "answer": "b", "note": "c"},
    ]
