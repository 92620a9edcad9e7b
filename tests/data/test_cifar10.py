import errno
import hashlib
import io
import os
import pickle
import tarfile
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import requests
import torch

from lrm_lightning.data import CIFAR10DataModule, cifar10, official
from lrm_lightning.errors import UserError

RECORDS = 12
NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
FOLDER = "cifar-10-batches-bin"
ARCHIVE = "cifar-10-binary.tar.gz"


def _records(seed, count=RECORDS):
    rng = np.random.default_rng(seed)
    records = rng.integers(0, 256, (count, 3073), dtype=np.uint8)
    records[:, 0] = rng.integers(0, 10, count)
    return records


@pytest.fixture
def contents(monkeypatch):
    """Six small files that take the official ones' place: name -> bytes."""
    contents = {f"{name}.bin": _records(seed).tobytes() for seed, name in enumerate(NAMES)}
    monkeypatch.setattr(cifar10, "RECORDS", RECORDS)
    md5 = {name: hashlib.md5(raw).hexdigest() for name, raw in contents.items()}
    monkeypatch.setitem(cifar10.FILES, FOLDER, md5)
    return contents


@pytest.fixture
def folder(tmp_path, contents):
    """``tmp_path/cifar-10-batches-bin`` with these files."""
    folder = tmp_path / FOLDER
    folder.mkdir()
    for name, raw in contents.items():
        (folder / name).write_bytes(raw)
    return folder


def _module(root, **settings):
    return CIFAR10DataModule(root, **{"val_size": 10, "batch_size": 8, **settings})


def _error(root, **settings):
    """The message of the UserError that reading ``root`` ends in."""
    with pytest.raises(UserError) as error:
        _module(root, **settings).setup()
    message = str(error.value)
    assert "\n" not in message
    return message


def test_binary_layout_is_read_as_documented(folder):
    module = _module(folder.parent, download=False)
    train, test = module.load()
    assert train.images.shape == (5 * RECORDS, 3, 32, 32)
    assert train.images.dtype == test.images.dtype == torch.uint8
    assert train.labels.dtype == test.labels.dtype == torch.int64
    for position in (0, RECORDS, 5 * RECORDS - 1):
        raw = (folder / f"data_batch_{position // RECORDS + 1}.bin").read_bytes()
        record = raw[position % RECORDS * 3073 :][:3073]
        assert train.labels[position] == record[0]
        # green plane, row 2, column 3
        assert train.images[position, 1, 2, 3] == record[1 + 1024 + 2 * 32 + 3]
    assert test.labels.tolist() == list((folder / "test_batch.bin").read_bytes()[::3073])
    module.setup()
    assert module.provenance() == {
        "name": "cifar10",
        "official": True,
        "note": "",
        "fingerprint": module.fingerprint,
        "n_train": 50,
        "n_val": 10,
        "n_test": RECORDS,
    }
    assert len(module.class_names) == module.num_classes == 10


def test_bytes_that_are_not_official_are_refused_unless_allowed_and_then_said(folder):
    path = folder / "data_batch_3.bin"
    path.write_bytes(_changed(100, path.read_bytes()[100] ^ 1)(path.read_bytes()))
    message = _error(folder.parent)
    assert message.startswith(f"{path} does not have its official MD5: set data.require_official=")
    module = _module(folder.parent, require_official=False)
    module.setup()
    assert module.provenance()["note"] == "not the official bytes"
    assert not module.provenance()["official"]


def _changed(place, value):
    def change(raw):
        return raw[:place] + bytes([value]) + raw[place + 1 :]

    return change


SIZE = RECORDS * 3073
REPLACE = "move {folder} away to have the official files downloaded afresh"


@pytest.mark.parametrize("require_official", [True, False])
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda raw: raw[:-5], f"truncated: {SIZE - 5} bytes where {SIZE} are expected"),
        (lambda raw: raw + b"x", f"too long: {SIZE + 1} bytes where {SIZE} are expected"),
        (_changed(4 * 3073, 10), "damaged: record 4 has label 10 where 0 to 9 are possible"),
    ],
    ids=["truncated", "too long", "label"],
)
def test_damage_is_named_with_what_to_do(folder, damage, problem, require_official):
    path = folder / "data_batch_2.bin"
    path.write_bytes(damage(path.read_bytes()))
    message = _error(folder.parent, require_official=require_official)
    assert message == f"{path} is {problem}; {REPLACE.format(folder=folder)}, or {official.OWN}"


def test_missing_and_unreadable_file(folder, monkeypatch):
    path = folder / "data_batch_5.bin"
    path.unlink()
    assert _error(folder.parent) == f"{path} is missing; {REPLACE.format(folder=folder)}"

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    path = folder / "data_batch_1.bin"
    assert _error(folder.parent) == f"cannot read {path}: Permission denied; check its permissions"


def test_nothing_there_and_no_download_allowed(tmp_path):
    message = _error(tmp_path, download=False)
    assert message.startswith(f"no CIFAR-10 in {tmp_path}, where {ARCHIVE} is missing or damaged, ")
    assert "data.download=false: set data.download=true" in message
    assert "data=digits" in message


@pytest.mark.parametrize("name", [FOLDER, "cifar-10-batches-py"])
def test_a_root_one_level_too_deep_downloads_nothing(name, tmp_path, monkeypatch):
    monkeypatch.setattr(official.pooch, "retrieve", lambda *_, **__: pytest.fail("a download"))
    message = _error(tmp_path / name, download=True)
    assert message.endswith(f"give the folder above it, data.root={tmp_path}")
    assert not (tmp_path / name).exists()


# --- pickles ---------------------------------------------------------------------------------


class _Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.fixture
def pickles(tmp_path, contents, monkeypatch):
    """The same images as pickles, like torchvision leaves them; their MD5s count as official."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    md5 = {}
    for name in NAMES:
        records = np.frombuffer(contents[f"{name}.bin"], np.uint8).reshape(RECORDS, 3073)
        content = {b"data": records[:, 1:].copy(), b"labels": records[:, 0].tolist()}
        raw = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(raw)
        md5[name] = hashlib.md5(raw).hexdigest()
    monkeypatch.setitem(cifar10.FILES, folder.name, md5)
    return folder


def test_official_pickles_hold_the_same_data_as_the_binary_layout(pickles, contents):
    module = _module(pickles.parent, download=False)
    module.setup()
    assert module.official
    binary = pickles.parent / FOLDER
    binary.mkdir()
    for name, raw in contents.items():
        (binary / name).write_bytes(raw)
    other = _module(pickles.parent)
    other.setup()
    assert module.fingerprint == other.fingerprint


@pytest.mark.parametrize("require_official", [True, False])
def test_pickle_with_another_md5_is_never_opened(pickles, tmp_path, require_official):
    trap = tmp_path / "trap"
    path = pickles / "data_batch_4"
    path.write_bytes(pickle.dumps(_Bomb(trap)))
    message = _error(pickles.parent, require_official=require_official)
    assert not trap.exists()
    assert message.startswith(f"{path} has MD5 {hashlib.md5(path.read_bytes()).hexdigest()}, not")
    assert f"bring the data as {FOLDER}/" in message
    pickle.loads(path.read_bytes())
    assert trap.exists()  # it would have worked


def test_old_spelling_of_dtypes_in_pickles_is_no_warning(pickles, monkeypatch):
    """numpy warns about pickles as old as CIFAR-10's."""

    def loads(raw, **options):
        warnings.warn("dtype(): align should be passed", DeprecationWarning, stacklevel=1)
        return pickle.load(io.BytesIO(raw), **options)

    monkeypatch.setattr(official.pickle, "loads", loads)
    assert len(_module(pickles.parent).load()[0].labels) == 5 * RECORDS


# --- fetching --------------------------------------------------------------------------------


def _archive(contents, extra=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, raw in [*((f"{FOLDER}/{name}", raw) for name, raw in contents.items()), *extra]:
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    return buffer.getvalue()


def _count_as_official(monkeypatch, archive):
    (url,) = CIFAR10DataModule.downloads
    md5 = hashlib.md5(archive).hexdigest()
    monkeypatch.setattr(CIFAR10DataModule, "downloads", {url: md5})


@pytest.fixture
def server(contents, monkeypatch):
    """What answers every download: the archive of these contents, whose MD5 counts as official."""
    server = SimpleNamespace(body=_archive(contents), status=200, cut=False, requests=0)

    def cut_off(chunk_size):
        yield server.body[:100]
        raise requests.exceptions.ChunkedEncodingError("connection broken")

    def get(url, **settings):
        server.requests += 1
        response = requests.Response()
        response.status_code, response.raw = server.status, io.BytesIO(server.body)
        if server.cut:
            response.iter_content = cut_off
        return response

    monkeypatch.setattr(requests, "get", get)
    _count_as_official(monkeypatch, server.body)
    return server


def test_download_gives_the_official_files_once(server, tmp_path):
    root = tmp_path / "new" / "data"
    module = _module(root)
    module.prepare_data()
    module.setup()
    assert module.official
    assert len(module.load()[0].labels) == 5 * RECORDS
    _module(root).setup()
    assert server.requests == 1
    assert sorted(os.listdir(root)) == [FOLDER, ARCHIVE]


def test_jobs_that_start_together_download_once(server, tmp_path):
    jobs = [threading.Thread(target=_module(tmp_path).prepare_data) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert server.requests == 1
    _module(tmp_path, download=False).setup()


def test_archive_put_there_by_hand_is_used_without_network(server, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(server.body)
    _module(tmp_path, download=False).setup()
    assert server.requests == 0


def test_damaged_archive_is_downloaded_afresh_if_that_is_allowed(server, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(b"half of a download")
    message = _error(tmp_path, download=False)
    assert message.startswith(f"no CIFAR-10 in {tmp_path}, where {ARCHIVE} is missing or damaged, ")
    assert not (tmp_path / FOLDER).exists()
    _module(tmp_path).setup()
    assert server.requests == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"body": b"<html>moved</html>"}, "what {url} sent is not the official file (MD5 "),
        ({"cut": True}, "cannot download {url} (ChunkedEncodingError, no answer): put"),
        ({"status": 503}, f"cannot download {{url}} (HTTPError, 503): put {ARCHIVE}"),
    ],
)
def test_failed_download_leaves_nothing_to_be_taken_for_good(server, tmp_path, change, message):
    vars(server).update(change)
    (url,) = CIFAR10DataModule.downloads
    assert _error(tmp_path).startswith(message.format(url=url))
    assert os.listdir(tmp_path) == []


def test_no_network(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise requests.ConnectionError("name resolution failed\nfor many reasons")

    monkeypatch.setattr(requests, "get", refuse)
    assert _error(tmp_path) == (
        f"cannot download {cifar10.URL} (ConnectionError, no answer): put {ARCHIVE}, or "
        f"{FOLDER}/ from it, into {tmp_path} by hand, or use data=digits"
    )


def test_only_the_known_files_are_unpacked(server, contents, tmp_path, monkeypatch):
    extra = [("../outside", b"x"), (f"{FOLDER}/readme.html", b"x"), ("/tmp/absolute", b"x")]
    server.body = _archive(contents, extra)
    _count_as_official(monkeypatch, server.body)
    root = tmp_path / "root"
    _module(root).setup()
    assert sorted(os.listdir(root / FOLDER)) == sorted(contents)
    assert os.listdir(tmp_path) == ["root"]


@pytest.mark.parametrize("damage", ["no archive", "cut off", "without a file"])
def test_archive_that_cannot_be_unpacked(contents, tmp_path, monkeypatch, damage):
    if damage == "without a file":
        raw = _archive({name: raw for name, raw in contents.items() if "test" not in name})
    else:
        raw = b"no archive" * 99 if damage == "no archive" else _archive(contents)[:-9000]
    _count_as_official(monkeypatch, raw)
    (tmp_path / ARCHIVE).write_bytes(raw)
    message = _error(tmp_path, download=False)
    assert message.startswith(f"{tmp_path / ARCHIVE} is damaged (")
    assert os.listdir(tmp_path) == [ARCHIVE]


def test_full_disk(server, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "extract", full)
    assert _error(tmp_path) == (
        f"cannot put CIFAR-10 into {tmp_path} (No space left on device): make it writable with "
        "350 MB free, or choose another data.root"
    )
    assert os.listdir(tmp_path) == [ARCHIVE]


def test_root_that_is_a_file(tmp_path):
    root = tmp_path / "data"
    root.write_text("")
    assert _error(root).startswith(f"cannot put CIFAR-10 into {root} (File exists)")


def test_another_process_that_was_faster_is_no_error(folder, contents, tmp_path):
    archive = tmp_path / ARCHIVE
    archive.write_bytes(_archive(contents))
    official._unpack(archive, *CIFAR10DataModule.unpacked)
    assert sorted(os.listdir(tmp_path)) == [FOLDER, ARCHIVE]
    _module(tmp_path, download=False).setup()


def test_real_files():
    """The whole of CIFAR-10, wherever LRM_CIFAR10_ROOT says it lies."""
    root = os.environ.get("LRM_CIFAR10_ROOT")
    if not root:
        pytest.skip("LRM_CIFAR10_ROOT does not name a folder with CIFAR-10")
    module = CIFAR10DataModule(root, require_official=False, download=False)
    train, test = module.load()
    assert train.images.shape == (50_000, 3, 32, 32)
    assert test.images.shape == (10_000, 3, 32, 32)
    assert torch.bincount(train.labels).tolist() == [5000] * 10
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    # the first training images, on which every copy agrees
    first = [module.class_names[label] for label in train.labels[:5]]
    assert first == ["frog", "truck", "truck", "deer", "automobile"]
    means = train.images.float().mean((0, 2, 3)) / 255
    torch.testing.assert_close(means, torch.tensor([0.4914, 0.4822, 0.4465]), atol=0.002, rtol=0)
    assert module.note == ("" if module.official else "not the official bytes")
