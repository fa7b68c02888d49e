"""What is kept in files is what was compiled, or nothing is."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from prism.match import disk, phrases
from prism.match.phrases import Phrase, PhraseSet
from prism.types import Boundary, Disguise

ARRAYS = {
    "block": np.arange(1000, dtype=np.int32), "none": np.zeros(0, np.int64),
    "odd": np.arange(7, dtype=np.uint8).reshape(7, 1),
}  # fmt: skip
PHRASES = [
    Phrase("r", f"zephyr lantern {number}", Boundary.WORD, frozenset(Disguise), True)
    for number in range(50)
]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    folder = tmp_path / "kept"
    monkeypatch.setenv(disk.VARIABLE, str(folder))
    monkeypatch.setattr(phrases, "WORTH_KEEPING", 10)
    monkeypatch.setattr(PhraseSet, "_shared", type(PhraseSet._shared)())
    return folder


def test_what_was_saved_is_loaded_read_only():
    disk.save("kind", "key", {"rules": ["a"]}, ARRAYS)
    found = disk.load("kind", "key")
    assert found is not None
    assert found.meta == {"rules": ["a"]}
    for name, array in ARRAYS.items():
        assert np.array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype
        assert not found.arrays[name].flags.writeable


def test_only_its_user_can_write_or_read_a_file(place):
    disk.save("kind", "key", {}, ARRAYS)
    (path,) = place.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert place.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("other", [("kind", "other"), ("other", "key")])
def test_another_files_contents_are_not_taken(place, other):
    disk.save("kind", "key", {}, ARRAYS)
    (path,) = place.iterdir()
    path.rename(place / f"{other[0]}-{other[1]}.bin")
    assert disk.load(*other) is None
    assert disk.load("kind", "key") is None


def test_a_damaged_file_is_as_good_as_none(place):
    disk.save("kind", "key", {}, ARRAYS)
    (path,) = place.iterdir()
    sound, rng = path.read_bytes(), random.Random(1)
    header = sound.index(b"\n", 20)
    places = [*range(header), *(rng.randrange(header, header + 4000) for _ in range(60))]
    for at in places:
        path.write_bytes(sound[:at] + bytes((sound[at] ^ 0x11,)) + sound[at + 1 :])
        found = disk.load("kind", "key")
        if found is not None:  # a space of the header's padding, or a name in it
            known = {array.tobytes() for array in ARRAYS.values()}
            assert {array.tobytes() for array in found.arrays.values()} == known
    for size in range(0, len(sound) - 64, 97):
        path.write_bytes(sound[:size])
        assert disk.load("kind", "key") is None
    path.write_bytes(sound)
    assert disk.load("kind", "key") is not None


def test_a_file_that_others_can_write_is_not_read(place):
    disk.save("kind", "key", {}, ARRAYS)
    (path,) = place.iterdir()
    path.chmod(0o620)
    assert disk.load("kind", "key") is None


def test_it_can_be_turned_off(place, monkeypatch):
    monkeypatch.setenv(disk.VARIABLE, "off")
    disk.save("kind", "key", {}, ARRAYS)
    assert disk.load("kind", "key") is None
    assert not place.exists()


def test_without_a_place_to_write_nothing_is_kept(place, monkeypatch):
    place.write_text("not a folder")
    disk.save("kind", "key", {}, ARRAYS)
    assert disk.load("kind", "key") is None


def test_it_is_kept_where_the_user_keeps_such_things(monkeypatch, tmp_path):
    monkeypatch.delenv(disk.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert disk.folder() == tmp_path / "prism" / "compiled"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert disk.folder() == tmp_path / ".cache" / "prism" / "compiled"


def test_what_was_not_used_for_longest_makes_room(place, monkeypatch):
    monkeypatch.setattr(disk, "MOST_BYTES", 18_000)
    for number in range(4):
        disk.save("kind", str(number), {}, {"block": np.zeros(1000, np.int32)})
        os.utime(place / f"kind-{number}.bin", (number, number))
    disk.load("kind", "0")
    disk.save("kind", "4", {}, {"block": np.zeros(1000, np.int32)})
    assert {path.name for path in place.iterdir()} == {f"kind-{n}.bin" for n in (0, 2, 3, 4)}


def test_phrases_are_read_from_the_file_that_another_set_left(place):
    made = PhraseSet.compile(PHRASES)
    assert PhraseSet.compile(list(PHRASES)) is made
    (path,) = place.iterdir()
    block, rules, digest = made.block.copy(), made.rules, made.digest
    del made
    written = path.stat().st_ino
    found = PhraseSet.compile(PHRASES)
    assert path.stat().st_ino == written
    assert np.array_equal(found.block, block)
    assert (found.rules, found.digest) == (rules, digest)
    assert [m.rule for m in found.scanner().feed("a zephyr lantern 7.")] == ["r"]


@pytest.mark.parametrize("change", ["rule", "text", "boundary", "disguises", "held"])
def test_whatever_is_different_makes_another_file(place, change):
    PhraseSet.compile(PHRASES)
    other = {"rule": "s", "text": "velvet", "boundary": Boundary.NONE,
             "disguises": frozenset({Disguise.LEET}), "held": False}[change]  # fmt: skip
    PhraseSet.compile([PHRASES[0]._replace(**{change: other}), *PHRASES[1:]])
    assert len(list(place.iterdir())) == 2


def test_a_damaged_file_is_compiled_anew(place):
    block = PhraseSet.compile(PHRASES).block.copy()
    (path,) = place.iterdir()
    data = path.read_bytes()
    path.write_bytes(data[:-400] + b"\x7f" * 400)
    assert np.array_equal(PhraseSet.compile(PHRASES).block, block)
    assert path.read_bytes() == data


_OTHER = """
import hashlib, sys
from prism.match import disk, phrases
phrases.WORTH_KEEPING = 10
from tests.match.test_disk import PHRASES
made = phrases.PhraseSet.compile(PHRASES)
found = disk.load("phrases", made.digest)
same = found.arrays["block"].tobytes() == made.block.tobytes()
print(hashlib.sha256(made.block.tobytes()).hexdigest(), same)
"""


def test_processes_that_write_at_once_leave_one_whole_file(place):
    root = Path(__file__).parents[2]
    others = [
        subprocess.Popen([sys.executable, "-c", _OTHER], cwd=root, stdout=subprocess.PIPE,
                         env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])})
        for _ in range(2)
    ]  # fmt: skip
    said = {other.communicate()[0].decode() for other in others}
    assert len(said) == 1
    assert said.pop().endswith("True\n")
    assert [path.suffix for path in place.iterdir()] == [".bin"]
