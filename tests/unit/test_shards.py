"""Shard files: round trip, damage found by name, foreign, missing and overlapping shards."""

import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import condrand
from condrand.io.shards import ShardError, check_shards, read_arrays, write_arrays

PACKAGE = str(Path(condrand.__file__).parents[1])
KEY = {"names": ["GATA1", "β-globin"], "seed": 7, "first_block": 0, "end_block": 2, "clip": 1e-6}


def arrays() -> dict[str, np.ndarray]:
    """Small and large, all types a shard holds, NaN and infinities among them."""
    random = np.random.default_rng(0)
    return {
        "n": np.array([[1024]]),
        "exceed": random.integers(0, 1024, (2, 3, 20)),
        "extremes": np.array([[np.inf, -np.inf], [np.nan, -0.0]]),
        "histogram": random.integers(0, 9, (2, 20, 128)).astype(np.int32),
        "converged": np.array([True, False]),
        "empty": np.empty((0, 3)),
    }


@pytest.fixture
def shard(tmp_path) -> Path:
    """A whole shard file."""
    path = tmp_path / "shard-0001.h5"
    write_arrays(path, KEY, arrays())
    return path


# Files


def test_arrays_and_key_come_back_to_the_bit(shard):
    key, back = read_arrays(shard)
    assert len(key.pop("checksum")) == 32
    assert key == KEY
    assert back.keys() == arrays().keys()
    for name, array in arrays().items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()


def test_the_same_contents_give_the_same_bytes(shard, tmp_path):
    other = tmp_path / "other.h5"
    write_arrays(other, dict(reversed(KEY.items())), arrays())
    assert other.read_bytes() == shard.read_bytes()


def test_the_checksum_tells_any_two_contents_apart(tmp_path):
    contents = [
        (KEY, arrays()),
        ({**KEY, "seed": 8}, arrays()),
        (KEY, {**arrays(), "n": np.array([[1023]])}),
        (KEY, {**arrays(), "n": np.array([1024])}),
        (KEY, {**arrays(), "n": np.array([[1024]], np.int32)}),
        (KEY, {**arrays(), "more": np.array([1])}),
    ]
    sums = []
    for i, (key, values) in enumerate(contents):
        write_arrays(tmp_path / f"{i}.h5", key, values)
        sums.append(read_arrays(tmp_path / f"{i}.h5")[0]["checksum"])
    assert len(set(sums)) == len(contents)


def refused(path: Path) -> str:
    """The message with which a damaged file is refused."""
    with pytest.raises(ShardError) as caught:
        read_arrays(path)
    message = str(caught.value)
    assert str(path) in message
    assert f"rm '{path}'" in message
    return message


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused_by_name(shard, share):
    raw = shard.read_bytes()
    shard.write_bytes(raw[: int(share * len(raw))])
    # Below the header's length nothing says whose file it is.
    expected = "truncated" if share > 0.01 else "no file of this workflow|truncated"
    assert re.search(expected, refused(shard))


def test_an_absent_or_foreign_file_is_refused_by_name(tmp_path):
    refused(tmp_path / "absent.h5")
    text = tmp_path / "text.h5"
    text.write_text("not HDF5")
    refused(text)
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["x"] = [1, 2]
    refused(other)


@pytest.mark.parametrize("mask", [0x01, 0xFF])
def test_a_flipped_byte_of_an_array_is_refused_by_name(shard, mask):
    raw = bytearray(shard.read_bytes())
    at = raw.index(arrays()["extremes"].tobytes())
    for place in range(at, at + 32, 5):
        damaged = bytearray(raw)
        damaged[place] ^= mask
        shard.write_bytes(damaged)
        assert "do not match its checksum" in refused(shard)


def test_a_flipped_byte_of_a_compressed_array_is_refused_by_name(shard):
    raw = bytearray(shard.read_bytes())
    with h5py.File(shard) as file:
        chunk = file["histogram"].id.get_chunk_info(0)
    for place in range(chunk.byte_offset + 2, chunk.byte_offset + chunk.size, 97):
        damaged = bytearray(raw)
        damaged[place] ^= 0x10
        shard.write_bytes(damaged)
        refused(shard)


@pytest.mark.parametrize("mask", [0x01, 0xFF])
@pytest.mark.parametrize("part", [b'"seed": 7', b"extremes", b"condrand"])
def test_a_flipped_byte_of_the_text_is_refused_by_name(shard, part, mask):
    raw = bytearray(shard.read_bytes())
    raw[raw.index(part) + 1] ^= mask
    shard.write_bytes(raw)
    refused(shard)


def test_no_flipped_byte_kills_or_hangs_the_reader(tmp_path):
    path = tmp_path / "shard-0001.h5"
    write_arrays(path, {"seed": 1}, {"a": np.arange(6.0), "n": np.arange(100)})
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from condrand.io.shards import read_arrays\n"
        "path = Path(sys.argv[1])\n"
        "raw = path.read_bytes()\n"
        "for place in range(800, 2400):\n"
        "    damaged = bytearray(raw)\n"
        "    damaged[place] ^= 0xFF\n"
        "    path.write_bytes(damaged)\n"
        "    print(place, flush=True)\n"
        "    try:\n"
        "        read_arrays(path)\n"
        "    except Exception:\n"
        "        pass\n"
        "print('done')\n"
    )
    with (tmp_path / "places.txt").open("w") as places:
        ended = subprocess.run(
            [sys.executable, "-c", code, str(path)],
            env={**os.environ, "PYTHONPATH": PACKAGE},
            stdout=places,
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=False,
        )
    last = (tmp_path / "places.txt").read_text().split()[-1]
    assert (ended.returncode, last) == (0, "done")


def test_a_killed_writer_leaves_no_result_and_its_litter_is_cleared(tmp_path, kill_midway):
    path = tmp_path / "shard-0001.h5"
    code = (
        "import sys, time\n"
        "import numpy as np\n"
        "from condrand.io import shards\n"
        "class Slow(dict):\n"
        "    def items(self):\n"
        "        yield 'a', np.arange(9)\n"
        "        print('midway', flush=True)\n"
        "        time.sleep(60)\n"
        "shards.write_arrays(sys.argv[1], {'seed': 1}, Slow(a=np.arange(9)))\n"
    )
    kill_midway(code, path, "midway")
    refused(path)
    assert len(list(tmp_path.iterdir())) == 1
    write_arrays(path, KEY, arrays())
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert read_arrays(path)[0].items() >= KEY.items()


# Merging

EXPECTED = {"seed": 7, "outcome": "abc", "names": ["A", "B"], "version": 1}


def keys_of(*runs: tuple[int, int]) -> tuple[list[str], list[dict]]:
    """Paths and keys of shards that hold the given runs of blocks."""
    keys = [{**EXPECTED, "first_block": a, "end_block": b} for a, b in runs]
    return [f"crt/shard-{i:04d}.h5" for i in range(len(runs))], keys


@pytest.mark.parametrize(
    "runs",
    [[(0, 5)], [(0, 2), (2, 5)], [(3, 5), (0, 3)], [(0, 0), (0, 5), (5, 5)]],
    ids=["one", "two", "any order", "empty ones"],
)
def test_shards_that_cover_every_block_once_are_accepted(runs):
    check_shards(*keys_of(*runs), EXPECTED, 5)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_foreign_shard_is_named_with_what_is_foreign(name):
    paths, keys = keys_of((0, 2), (2, 5))
    keys[1][name] = "other"
    with pytest.raises(ShardError, match=f"shard-0001.h5: made for another {name}") as caught:
        check_shards(paths, keys, EXPECTED, 5)
    assert "rm 'crt/shard-0001.h5'" in str(caught.value)
    assert "shard-0000" not in str(caught.value)


def test_a_key_without_an_expected_entry_is_foreign():
    paths, keys = keys_of((0, 5))
    del keys[0]["version"]
    with pytest.raises(ShardError, match="made for another version"):
        check_shards(paths, keys, EXPECTED, 5)


def test_every_foreign_shard_is_named_at_once():
    paths, keys = keys_of((0, 2), (2, 4), (4, 5))
    keys[0]["seed"], keys[2]["outcome"] = 8, "xyz"
    with pytest.raises(ShardError, match=r"shard-0000.*another seed.*shard-0002.*another outcome"):
        check_shards(paths, keys, EXPECTED, 5)


def test_a_missing_block_is_named():
    with pytest.raises(ShardError, match="no shard holds block 2, 3 of 5"):
        check_shards(*keys_of((0, 2), (4, 5)), EXPECTED, 5)


def test_no_shard_at_all_is_refused():
    with pytest.raises(ShardError, match="no shard holds block 0"):
        check_shards([], [], EXPECTED, 3)


def test_overlapping_shards_are_refused():
    with pytest.raises(ShardError, match="several shards hold block 1, 2 of 5"):
        check_shards(*keys_of((0, 3), (1, 5)), EXPECTED, 5)


@pytest.mark.parametrize("runs", [[(0, 7)], [(0, 5), (5, 6)], [(0, 5), (-1, 0)]])
def test_a_shard_with_blocks_beyond_the_last_is_refused(runs):
    with pytest.raises(ShardError, match="block"):
        check_shards(*keys_of(*runs), EXPECTED, 5)
