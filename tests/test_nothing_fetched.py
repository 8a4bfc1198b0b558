"""Nothing is downloaded, unpacked or run for a data set: addresses, archives and scripts are refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import PX, contents, refused, run

from yolo_slim import SlimError
from yolo_slim.data import dataset_info
from yolo_slim.measure import accuracy

pytest_plugins = ["tiny"]


@pytest.fixture
def own(data: Path, tmp_path: Path) -> Path:
    """The YAML of a data set of one's own, without caches."""
    shutil.copytree(data.parent, tmp_path / "shapes", ignore=shutil.ignore_patterns("*.cache"))
    return tmp_path / "shapes" / data.name


def said(data: object, **change: Any) -> str:
    """What `dataset_info` refuses it with."""
    with pytest.raises(SlimError) as e:
        dataset_info(data, **change)
    return str(e.value)


def write(own: Path, text: str) -> Path:
    own.write_text(text)
    return own


ADDRESSES = [
    *(
        "https://example.com/d.yaml",
        "http://example.com/d.zip",
        "HTTP://EXAMPLE.COM/d.yaml",
        "https:/example.com/d.yaml",
    ),
    *("ul://user/datasets/x", "file:///d.yaml", "gs://bucket/d.yaml", "grpc://host/d", "s3://b/d.ndjson"),
    "https://platform.ultralytics.com/user/datasets/x",
]


@pytest.mark.parametrize("data", ADDRESSES)
def test_addresses_are_refused(original, tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = run("prune", f"model={original}", f"data={data}", f"imgsz={PX}", "prune.ratio=0.2")
    refused(answer, data, "nothing is downloaded here: download it yourself")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("key", ["train", "val", "path"])
@pytest.mark.parametrize("place", ["https://example.com/x", "ul://user/datasets/x", "images.zip", "images.tar.gz"])
def test_addresses_inside_a_description_are_refused(own, key, place):
    described = {**yaml.safe_load(own.read_text()), key: place}
    assert f"`{key}`: {place} is an a" in said(write(own, yaml.safe_dump(described)))


@pytest.mark.parametrize("suffix", ["zip", "tar"])
@pytest.mark.parametrize("name", ["shapes", "shapes.yaml"])
def test_archives_are_refused(own, original, tmp_path, suffix, name, monkeypatch):
    """Also one that is called like a YAML."""
    archive = Path(shutil.make_archive(str(tmp_path / "archive" / "shapes"), suffix, own.parent))
    given = archive.rename(archive.parent / f"{name}{'' if name.endswith('yaml') else f'.{suffix}'}")
    before = contents(tmp_path)
    monkeypatch.chdir(tmp_path)
    answer = run("prune", f"model={original}", f"data={given}", f"imgsz={PX}", f"runs={tmp_path}", "prune.ratio=0.2")
    refused(answer, given)
    assert ("unpack it yourself" in answer.err) == (name == "shapes")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("data", ["coco8", "coco8.yaml", "coco128.yaml", "nowhere", "nowhere.yaml", "images.ndjson"])
def test_known_names_are_not_looked_up_elsewhere(tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("yolo_slim.data.facts.DATASETS_DIR", tmp_path / "datasets")
    message = said(data)
    assert "nothing is downloaded here" in message or "does not exist" in message
    assert contents(tmp_path) == {}


def test_a_known_data_set_that_is_here_is_used(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("yolo_slim.data.facts.DATASETS_DIR", tmp_path / "datasets")
    shutil.copytree(own.parent, tmp_path / "datasets" / "coco8")
    assert dataset_info("coco8.yaml")["val"] == str(tmp_path / "datasets/coco8/images/val")


SCRIPTS = {
    "bash": "bash {folder}/get.sh",
    "Python": "open('{mark}', 'w')",
    "an address": "https://example.com/d.zip",
    "no text": "3",
}


@pytest.mark.parametrize("missing", ["train", "val", "test"])
@pytest.mark.parametrize("form", SCRIPTS)
def test_what_a_description_would_download_with_is_not_run(own, original, tmp_path, form, missing):
    mark = tmp_path / "mark"
    (tmp_path / "get.sh").write_text(f"touch {mark}")
    script = SCRIPTS[form].format(folder=tmp_path, mark=mark)
    described = {**yaml.safe_load(own.read_text()), missing: "images/gone", "download": script}
    write(own, yaml.safe_dump(described))
    words = [f"model={original}", f"data={own}", f"imgsz={PX}", f"runs={tmp_path / 'runs'}", "prune.ratio=0.2"]
    refused(run("prune", *words, "prune.calib_images=4"), own, "gone")
    with pytest.raises(SlimError):
        accuracy(original, str(own), PX, missing)
    assert not mark.exists()
