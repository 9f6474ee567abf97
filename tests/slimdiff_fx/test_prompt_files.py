"""Prompt files in every format: the same prompts, or one line that says where they are wrong."""

import json
import os
import threading
from pathlib import Path

import pytest

from passes.errors import UsageError
from slimdiff_fx.pipelines.inputs.prompts import read_prompts

WANTED = ("red apple", 'a "big", grey cat', "naïve café")


def as_csv(header, newline="\r\n"):
    quoted = ['"' + prompt.replace('"', '""') + '"' for prompt in WANTED]
    return newline.join([header, *(f"{number},{text}" for number, text in enumerate(quoted)), ""])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "\n  ".join(WANTED) + "\n\n"),
        ("a.txt", "\r\n".join(WANTED)),
        ("a.txt", "\ufeff" + "\r".join(WANTED)),
        ("a", "\n".join(WANTED)),
        ("a.json", json.dumps(list(WANTED))),
        ("a.JSON", json.dumps([{"id": 1, "Caption": text} for text in WANTED], indent=1)),
        ("a.jsonl", "\n".join(json.dumps({"text": text}) for text in WANTED)),
        ("a.jsonl", "\n\n".join(json.dumps(text) for text in WANTED)),
        ("a.csv", as_csv("id,Prompt")),
        ("a.csv", as_csv("id, TEXT ", "\n")),
        ("a.csv", "\ufeff" + as_csv("id,caption") + "\r\n"),
        ("a.tsv", "id\tprompt\n" + "".join(f'1\t"{text.replace(chr(34), chr(34) * 2)}"\n' for text in WANTED)),
    ],
)
def test_every_format_gives_the_same_prompts(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content.encode())
    assert read_prompts(file) == WANTED


def test_of_several_columns_prompt_comes_before_caption_and_text(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("text,caption,prompt\nt,c,p\n")
    assert read_prompts(file) == ("p",)
    file.with_suffix(".jsonl").write_text('{"text": "t", "caption": "c"}\n')
    assert read_prompts(file.with_suffix(".jsonl")) == ("c",)


def test_a_field_may_go_over_lines_and_be_long(tmp_path):
    file = tmp_path / "a.csv"
    long = "x" * 90_000
    file.write_text(f'prompt\n"one\ntwo"\n{long},\n'.replace(",", ""))
    assert read_prompts(file) == ("one\ntwo", long)


def test_what_only_begins_like_another_format_is_text(tmp_path):
    file = tmp_path / "a.txt"
    lines = ("[V] dog on the beach", "{red|blue} car", "1girl, text, watermark", 'a sign that says "prompt"')
    file.write_text("\n".join(lines))
    assert read_prompts(file) == lines


@pytest.mark.parametrize("content", ["\n".join(WANTED), json.dumps(list(WANTED)), as_csv("id,prompt")])
def test_pipes_are_taken_for_what_they_look_like(tmp_path, content):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_text, args=(content,))
    writer.start()
    assert read_prompts(fifo) == WANTED
    writer.join()
    read, write = os.pipe()  # as a shell's <(...) names it
    with os.fdopen(write, "wb") as opened:
        opened.write(content.encode())
    assert read_prompts(Path(f"/dev/fd/{read}")) == WANTED
    os.close(read)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\nna\xefve\n", "line 2: byte 7 is not UTF-8"),
        ("a.txt", "fine".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("a.txt", b"fine\nfine\nfi\0ne", "line 3: a NUL byte"),
        ("a.txt", b"x" * 200_000, "line 1: 200000 characters are no prompt"),
        ("a.txt", b"", "is empty"),
        ("a.txt", b"\n \r\n\t\n", "is empty"),
        ("a.txt", b'["a", "b"]', "line 1: that is JSON; name the file .json"),
        ("a.txt", b'{"prompt": "a"}\n{"prompt": "b"}', "line 1: that is JSON lines; name the file .jsonl"),
        ("a.txt", b"prompt,seed\na,1\n", "line 1: that is a CSV table; name the file .csv"),
        ("a.json", b'["a",\n"b"', "line 2: no valid JSON"),
        ("a.json", b'"a"\n"b"\n', "line 2: no valid JSON"),
        ("a.json", b"[" * 100_000, "nested or long beyond reason"),
        ("a.json", b'{"a": 1}', "a JSON object is no JSON list"),
        ("a.json", b'["a", 3]', "entry 2: a prompt is a string, and this is a JSON number"),
        ("a.json", b'["a", {"title": "b"}]', "entry 2: an object without prompt, caption or text; it has title"),
        ("a.json", b'["a\\ud800"]', "entry 1: a NUL or half a character"),
        ("a.json", b"[]", "is empty"),
        ("a.jsonl", b'"a"\n\nb\n', "line 3: no valid JSON"),
        ("a.jsonl", b'{"prompt": null}', "line 1: a prompt is a string, and this is a JSON null"),
        ("a.jsonl", b'"a"\n' + b'{"prompt":' * 100_000, "line 2: "),
        ("a.csv", b"id,title\n1,a\n", "line 1: no column is named prompt, caption or text; there are id, title"),
        ("a.csv", b"id,prompt\n1,a\n2,a cat, a dog\n", "line 3: 3 fields, and the header names 2"),
        ("a.csv", b'id,prompt\n1,"a\n', "a quote is not closed"),
        ("a.csv", b"id,prompt\n", "is empty"),
        ("a.csv", b"", "is empty"),
        ("a.json", b"", "is empty"),
    ],
)
def test_what_is_no_list_of_prompts_is_refused_with_its_place(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(UsageError, match="prompt file") as raised:
        read_prompts(file)
    assert str(file) in str(raised.value)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_folders_and_endless_files_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="is a folder"):
        read_prompts(tmp_path)
    with pytest.raises(UsageError, match="NUL byte"):
        read_prompts(Path("/dev/zero"))
    monkeypatch.setattr("slimdiff_fx.files.text_file.MOST_BYTES", 1 << 20)
    (tmp_path / "a.txt").write_text("cat\n" * (1 << 19))
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        read_prompts(tmp_path / "a.txt")
