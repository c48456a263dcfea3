from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import python_environment
from safetensors.torch import save_file

import diffnoise as dn
from diffnoise.checkpoint import FORMAT_VERSION, load_checkpoint, save_checkpoint, write_atomically

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor([1, -(2**40)]),
    "c": torch.tensor(2.5, dtype=torch.float64),
}


@pytest.fixture
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise AssertionError("a pickle was loaded")

    for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(owner, name, refuse)


def test_round_trip(tmp_path: Path, no_pickle: None) -> None:
    path = tmp_path / "x.safetensors"
    channels_last = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    save_checkpoint(path, "training", TENSORS | {"d": channels_last}, {"step": 3, "text": "a\u00e4\n"})
    tensors, meta = load_checkpoint(path, "training")
    versions = {"format_version": FORMAT_VERSION, "noise_version": dn.noise.NOISE_VERSION}
    assert meta == {"kind": "training", **versions, "step": 3, "text": "a\u00e4\n"}
    assert tensors.keys() == {"a", "b", "c", "d"}
    for name, value in (TENSORS | {"d": channels_last}).items():
        assert tensors[name].dtype == value.dtype and torch.equal(tensors[name], value)


def damaged(path: Path, damage: str) -> None:
    meta = {"kind": "detector", "format_version": FORMAT_VERSION}
    if damage == "truncated":
        save_checkpoint(path, "detector", TENSORS, {})
        path.write_bytes(path.read_bytes()[:-7])
    elif damage == "truncated in the header":
        save_checkpoint(path, "detector", TENSORS, {})
        path.write_bytes(path.read_bytes()[:20])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("hello, this is not a checkpoint at all")
    elif damage == "pickle":
        torch.save(TENSORS, path)
    elif damage == "another version":
        save_file(TENSORS, path, {"diffnoise": json.dumps(meta | {"format_version": FORMAT_VERSION + 1})})
    elif damage == "another kind":
        save_checkpoint(path, "training", TENSORS, {})
    elif damage == "another program":
        save_file(TENSORS, path, {"format": "pt"})
    elif damage == "broken JSON":
        save_file(TENSORS, path, {"diffnoise": "{"})
    elif damage == "JSON list":
        save_file(TENSORS, path, {"diffnoise": "[1]"})
    elif damage == "folder":
        path.mkdir()
    else:
        assert damage == "missing"


DAMAGES = {
    "truncated": "train again",
    "truncated in the header": "train again",
    "empty": "train again",
    "text": "train again",
    "pickle": "train again",
    "another version": f"version {FORMAT_VERSION + 1}.*use the version",
    "another kind": "give the file",
    "another program": "give the file",
    "broken JSON": "give the file",
    "JSON list": "give the file",
    "folder": "train a detector first",
    "missing": "train a detector first",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_file_is_named_with_a_remedy(tmp_path: Path, damage: str, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "detector.safetensors"
    damaged(path, damage)
    request.getfixturevalue("no_pickle")
    with pytest.raises(dn.CheckpointError, match=DAMAGES[damage]) as caught:
        load_checkpoint(path, "detector")
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and message.endswith(".")


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name not in ("folder", "missing")])
def test_load_of_a_detector_refuses_the_same(tmp_path: Path, damage: str, request: pytest.FixtureRequest) -> None:
    damaged(tmp_path / "detector.safetensors", damage)
    request.getfixturevalue("no_pickle")
    with pytest.raises(dn.CheckpointError, match="detector.safetensors"):
        dn.load(tmp_path)


def rewritten(path: Path, change: Callable[[dict[str, torch.Tensor], dict], None]) -> None:
    tensors, meta = load_checkpoint(path, "detector")
    meta = {key: value for key, value in meta.items() if key not in ("kind", "format_version")}
    change(tensors, meta)
    save_checkpoint(path, "detector", tensors, meta)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t, m: m["model"].update(channels=16), "size mismatch"),
        (lambda t, m: m["model"].update(width=16), "width"),
        (lambda t, m: m["model"].update(channel_mult=[]), "channel_mult"),
        (lambda t, m: m.pop("model"), "model"),
        (lambda t, m: m.update(model=None), "pass it as model="),
        (lambda t, m: m.update(noise_version="0"), "noise version 0"),
        (lambda t, m: m["noise"].update(kind="perlin"), "perlin"),
        (lambda t, m: m["scoring"].update(steps=0), "steps"),
        (lambda t, m: m["framing"].update(size=15), "multiple of 4"),
        (lambda t, m: t.pop("betas"), "betas"),
        (lambda t, m: t.pop("model.conv_in.weight"), "conv_in.weight"),
        (lambda t, m: t.update({"model.more": torch.zeros(1)}), "more"),
    ],
)
def test_a_detector_file_of_another_shape_is_refused(
    trained: tuple[Path, Path], tmp_path: Path, change: Callable, says: str
) -> None:
    path = tmp_path / "detector.safetensors"
    path.write_bytes((trained[0] / "detector.safetensors").read_bytes())
    rewritten(path, lambda tensors, meta: None)
    dn.load(path)
    rewritten(path, change)
    with pytest.raises(dn.CheckpointError, match=says) as caught:
        dn.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("function", ["fsync", "replace", "fdopen"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    path = tmp_path / "x"
    write_atomically(path, b"old")

    def fail(*arguments: object, **keywords: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(OSError, match="No space"):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_synced_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    write_atomically(tmp_path / "x", b"new")
    assert calls == ["fsync", "replace", "fsync"]  # the content, the name, the folder


WRITER = """
import os, random, signal, sys, time
from pathlib import Path
from diffnoise.checkpoint import write_atomically

path, rng = Path(sys.argv[1]), random.Random(0)
write_atomically(path, b"")
seen = set()
for _ in range(12):
    child = os.fork()
    if child == 0:
        for i in range(10**9):
            write_atomically(path, bytes([i % 251]) * (2_000_000 + i))
    time.sleep(rng.uniform(0.02, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    content = path.read_bytes()
    i = max(0, len(content) - 2_000_000)
    assert not content or content == bytes([i % 251]) * len(content), (i, len(content))
    seen.add(i)
print(len(seen), sum(p != path for p in path.parent.iterdir()))
"""


def test_a_kill_while_writing_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    run = subprocess.run(
        [sys.executable, "-c", WRITER, str(path)], capture_output=True, text=True, env=python_environment()
    )
    assert run.returncode == 0, run.stderr
    moments, left_behind = map(int, run.stdout.split())
    assert moments > 2 and left_behind <= 1
    write_atomically(path, b"new")
    assert list(tmp_path.iterdir()) == [path]  # what killed writers left behind is cleared away
