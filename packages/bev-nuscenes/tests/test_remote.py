"""Data sets behind URLs: a real S3-compatible server, and everything that networks do to it."""

from __future__ import annotations

import dataclasses
import threading
import time
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import DataLoader

pytest.importorskip("s3fs", reason="needs bev-nuscenes[remote]")
pytest.importorskip("moto.server", reason="needs moto[server], an S3-compatible server for tests")

from bev_nuscenes import (
    DataError,
    DataOptions,
    FileCache,
    NuscenesDataset,
    NuscenesIndex,
    RemoteAccess,
    RemotePath,
    UnreadableFileError,
    build_index,
    collate,
    open_index,
)
from bev_nuscenes.devkit import open_tables

from .s3_server import BUCKET, Store

ROOT = f"s3://{BUCKET}"
QUICK = RemoteAccess(attempts=5, first_wait_s=0.05, timeout_s=1.5)


@pytest.fixture(scope="module")
def filled_store(tiny_root) -> Iterator[Store]:
    store = Store()
    store.upload(tiny_root)
    yield store
    store.close()


@pytest.fixture
def store(filled_store, monkeypatch, tmp_path) -> Store:
    """The server with the fabricated data set, which clients find through the variables of AWS."""
    for name, value in {
        "AWS_ENDPOINT_URL": filled_store.endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "XDG_CACHE_HOME": str(tmp_path / "user-cache"),
    }.items():
        monkeypatch.setenv(name, value)
    filled_store.faults.clear()
    filled_store.requests.clear()
    return filled_store


@pytest.fixture
def index(store) -> NuscenesIndex:
    return dataclasses.replace(open_index(DataOptions(root=ROOT), progress=False), access=QUICK)


def dataset(index: NuscenesIndex, **options) -> NuscenesDataset:
    return NuscenesDataset(index, "mini_train", **({"input_size": (32, 96)} | options))


def assert_same(samples, others) -> None:
    for one, other in zip(samples, others, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.boxes, other.boxes)


# -- the same data --------------------------------------------------------------------------------------------------


def test_a_bucket_gives_what_the_folder_gives(index, tiny_index):
    options = {"with_depth": True, "with_occupancy": True}
    here, there = dataset(tiny_index, **options), dataset(index, **options)
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.depth, other.depth) and torch.equal(one.semantics, other.semantics)
    assert str(index.camera_path(0, 1)) == f"{ROOT}/samples/CAM_FRONT/scene-0061-0.jpg"


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_have_clients_of_their_own(index, tiny_index, method):
    there = dataset(index, images="fast")
    there[0]  # the main process has a client, whose threads a forked worker lacks
    loader = DataLoader(there, num_workers=2, collate_fn=collate, multiprocessing_context=method)
    for batch, sample in zip(loader, dataset(tiny_index, images="fast"), strict=True):
        assert torch.equal(batch.images[0], sample.images)


def test_the_tables_are_copied_once_and_again_when_they_change(store, tiny_root):
    options = DataOptions(root=ROOT)
    open_index(options, progress=False)
    assert store.requests["v1.0-mini/sample_data.json"] == 1
    open_index(options, progress=False)
    assert open_tables(ROOT, "v1.0-mini").sample  # the evaluation opens them, too
    assert store.requests["v1.0-mini/sample_data.json"] == 1
    table = (tiny_root / "v1.0-mini" / "log.json").read_bytes()
    store.client.put_object(Bucket=BUCKET, Key="v1.0-mini/log.json", Body=table + b"\n")
    open_index(options, progress=False)
    assert store.requests["v1.0-mini/sample_data.json"] == 2


@pytest.mark.parametrize(
    ("root", "version", "message"),
    [
        (f"{ROOT}/nowhere", "v1.0-mini", r"s3://nuscenes/nowhere lacks v1.0-mini/attribute.json, .*give the URL"),
        (ROOT, "v1.0-trainval", r"s3://nuscenes lacks v1.0-trainval/attribute.json"),
        (ROOT, "v2", "unknown version 'v2'"),
        (ROOT, "own", "own data is read from folders of this machine: copy s3://nuscenes"),
    ],
)
def test_a_wrong_root_is_named(store, root, version, message):
    with pytest.raises(DataError, match=message):
        open_index(DataOptions(root=root, version=version), progress=False)


# -- trouble --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["500", "503", "cut", "wrong length", "slow"])
def test_trouble_that_passes_is_told_and_nothing_is_lost(store, index, tiny_index, fault):
    expected = dataset(tiny_index)[0]
    store.faults.extend([fault] * (1 if fault == "slow" else 2))
    with pytest.warns(UserWarning, match=rf"{ROOT}/samples/.*jpg: .*attempt 1 of 5, again in 0.05 s"):
        assert_same([dataset(index)[0]], [expected])
    assert not store.faults


def test_connections_that_are_reset_lose_nothing(store, index, tiny_index):
    store.faults.extend(["reset"] * 3)  # the client itself replaces a connection that it has used before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same([dataset(index)[0]], [dataset(tiny_index)[0]])
    assert not store.faults


def test_a_storm_of_faults_in_workers_loses_nothing(store, index, tiny_index):
    expected = list(dataset(tiny_index, frames=2))
    store.faults.extend(("500", "reset", "503", "cut", "wrong length") * 4)
    patient = dataclasses.replace(index, access=RemoteAccess(attempts=25, first_wait_s=1e-4, timeout_s=5))
    loader = DataLoader(dataset(patient, frames=2), num_workers=2, collate_fn=collate)
    found = [batch.images[0] for batch in loader]
    assert all(torch.equal(one, other.images) for one, other in zip(found, expected, strict=True))
    assert not store.faults


def test_a_server_that_restarts_in_the_middle_loses_nothing(store, index, tiny_index):
    patient = dataclasses.replace(index, access=dataclasses.replace(QUICK, attempts=8, first_wait_s=0.1))
    split, expected = dataset(patient), list(dataset(tiny_index))
    found = [split[0], split[1]]
    stopped = threading.Event()

    def restart() -> None:
        with store.down():
            stopped.set()
            time.sleep(1.0)

    thread = threading.Thread(target=restart)
    thread.start()
    stopped.wait()
    with pytest.warns(UserWarning, match=r"attempt 1 of 8"):
        found += [split[k] for k in (2, 3, 4)]
    thread.join()
    assert_same(found, expected)


def test_trouble_that_stays_names_the_url_and_the_attempts(store, index):
    store.faults.extend(["503"] * 100)
    url = f"{ROOT}/samples/CAM_FRONT_LEFT/scene-0061-0.jpg"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UnreadableFileError, match=rf"image {url} cannot be read: .*; tried 5 times") as error:
            dataset(index)[0]
    assert "\n" not in str(error.value) and error.value.path == url


def test_what_stays_unreadable_is_skipped_and_counted_when_asked(store, index):
    store.faults.extend(["500"] * QUICK.attempts)
    split = dataset(index, training=True, on_error="skip")
    with pytest.warns(UserWarning, match="its samples are replaced"):
        assert split[0].token == "scene-0061-1"
    assert split.faults.count == 1
    assert split.faults.files == [f"{ROOT}/samples/CAM_FRONT_LEFT/scene-0061-0.jpg"]


def test_a_missing_object_is_an_error_at_once(store, index):
    key = "samples/CAM_FRONT_LEFT/scene-0061-0.jpg"
    content = store.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    store.client.delete_object(Bucket=BUCKET, Key=key)
    try:
        with pytest.raises(UnreadableFileError, match=rf"image {ROOT}/{key} is missing"):
            dataset(index)[0]
        assert store.requests[key] == 1
    finally:
        store.client.put_object(Bucket=BUCKET, Key=key, Body=content)


# -- copies ---------------------------------------------------------------------------------------------------------


def with_copies(index: NuscenesIndex, folder, max_bytes: int = 10_000_000) -> NuscenesIndex:
    return dataclasses.replace(index, access=dataclasses.replace(QUICK, cache=FileCache(folder, max_bytes)))


def test_what_was_copied_needs_no_server(store, index, tmp_path):
    there = with_copies(index, tmp_path / "copies")
    loader = DataLoader(dataset(there), num_workers=2, collate_fn=collate)
    expected = [batch.images[0] for batch in loader]
    images = {name: count for name, count in store.requests.items() if name.endswith(".jpg")}
    assert len(images) == 30 and set(images.values()) == {1}
    with store.down():
        assert all(torch.equal(s.images, e) for s, e in zip(dataset(there), expected, strict=True))


def test_a_damaged_copy_is_fetched_again_and_told(store, index, tmp_path):
    there = with_copies(index, tmp_path / "copies")
    expected = dataset(there)[0]
    for path in (tmp_path / "copies").glob("??/*"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.warns(UserWarning, match=r"the copy of s3://nuscenes/samples/.* is damaged and is fetched again"):
        assert_same([dataset(there)[0]], [expected])


def test_options_name_the_folder_of_copies(store, tmp_path):
    options = DataOptions(root=ROOT, cache=tmp_path / "copies", cache_gb=0.01)
    index = open_index(options, progress=False)
    assert index.access.cache == FileCache(tmp_path / "copies", 10_000_000)
    dataset(index)[0]
    assert len(list((tmp_path / "copies").glob("??/*"))) == 6


@pytest.mark.parametrize("options", [{"cache": "x", "cache_gb": 0.0}, {"image_cache_gb": -1.0}])
def test_wrong_options(options):
    data = DataOptions(root=ROOT, **options)
    with pytest.raises(ValueError, match="must be"):
        print(data.access, data.image_cache_bytes)


# -- other stores ---------------------------------------------------------------------------------------------------


def test_any_url_of_fsspec_will_do(tiny_root, tiny_index):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory", skip_instance_cache=True)
    memory.put(str(tiny_root), "/world", recursive=True)
    index = build_index("memory://world", "v1.0-mini", progress=False)
    assert_same(dataset(index), dataset(tiny_index))
    path = RemotePath("memory://world")
    assert path.is_dir() and (path / "v1.0-mini" / "map.json").is_file() and not (path / "nothing").is_file()


def test_an_unknown_kind_of_url_says_so():
    with pytest.raises(ValueError, match=r"[Pp]rotocol not known: nowhere"):
        open_index(DataOptions(root="nowhere://x"), progress=False)
