"""Downloads from a server in this process, LMDBs, loaders and prefetchers under BasicSR 1.4's names."""

import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from basicsr.compat import download_util
from basicsr.compat.download_util import download_file_from_google_drive, load_file_from_url
from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.data.prefetch_dataloader import CPUPrefetcher, CUDAPrefetcher, PrefetchDataLoader
from basicsr.data.storage import open_store
from basicsr.images.files import list_images, read_image
from basicsr.utils.lmdb_util import make_lmdb_from_imgs

CONTENT = bytes(range(256)) * 9
FORM = (
    '<form id="download-form" action="{0}/download" method="get"><input type="hidden" name="id" value="{1}">'
    '<input type="hidden" name="confirm" value="t"><input type="submit"></form>'
)


class Handler(BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self):
        self.asked.append(self.path)
        url, server = urlparse(self.path), f"http://127.0.0.1:{self.server.server_port}"
        query = parse_qs(url.query)
        name = query.get("id", [""])[0]
        asks = url.path == "/uc" and name == "large" and "confirm" not in query
        page = FORM.format(server, name) if asks else "<html>quota exceeded</html>" if name == "private" else ""
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8" if page else "application/octet-stream")
        self.end_headers()
        self.wfile.write(page.encode() or CONTENT)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    Handler.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class TestDownloads:
    def test_a_file_is_downloaded_once(self, server, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
        path = load_file_from_url(f"{server}/x/net%20a.pth?raw=1", model_dir=tmp_path / "weights", progress=False)
        assert path == str(tmp_path / "weights/net a.pth") and Path(path).read_bytes() == CONTENT
        load_file_from_url(url=f"{server}/x/net%20a.pth", model_dir=str(tmp_path / "weights"), progress=True)
        assert len(Handler.asked) == 1
        path = load_file_from_url(f"{server}/b.pth", progress=False, file_name="c.pth")
        assert path == str(tmp_path / "cache/hub/checkpoints/c.pth")
        with pytest.raises(ValueError, match="file_name"):
            load_file_from_url(f"{server}/", model_dir=tmp_path)

    @pytest.mark.parametrize(("name", "requests"), [("small", 1), ("large", 2)])
    def test_google_drive_is_answered_when_it_asks_back(self, server, tmp_path, monkeypatch, name, requests):
        monkeypatch.setattr(download_util, "DRIVE_URL", f"{server}/uc")
        download_file_from_google_drive(name, tmp_path / "new" / "net.pth")
        assert (tmp_path / "new/net.pth").read_bytes() == CONTENT
        assert len(Handler.asked) == requests

    def test_a_file_that_drive_does_not_give_is_an_error(self, server, tmp_path, monkeypatch):
        monkeypatch.setattr(download_util, "DRIVE_URL", f"{server}/uc")
        with pytest.raises(OSError, match=r"private.*shared"):
            download_file_from_google_drive("private", tmp_path / "net.pth")
        assert not (tmp_path / "net.pth").exists()


@pytest.mark.parametrize("at_once", [False, True])
def test_an_lmdb_has_the_images_of_its_folder(photos, tmp_path, at_once):
    pytest.importorskip("lmdb")
    names = list_images(photos)
    keys = [Path(name).stem for name in names]
    path = str(tmp_path / "x.lmdb")
    make_lmdb_from_imgs(str(photos), path, names, keys, batch=2, multiprocessing_read=at_once)
    store = open_store(path, {"type": "lmdb"})
    assert sorted(store.names()) == sorted(f"{key}.png" for key in keys)
    for name, key in zip(names, keys, strict=True):
        assert np.array_equal(store.read(f"{key}.png"), read_image(photos / name))
    with pytest.raises(FileExistsError):
        make_lmdb_from_imgs(str(photos), path, names, keys)
    with pytest.raises(ValueError, match="same length"):
        make_lmdb_from_imgs(str(photos), str(tmp_path / "y.lmdb"), names, keys[1:])
    (tmp_path / "z.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"z\.png"):
        make_lmdb_from_imgs(str(tmp_path), str(tmp_path / "y.lmdb"), ["z.png"], ["z"], map_size=1 << 26)
    assert not (tmp_path / "y.lmdb").exists()


class TestLoaders:
    OPT = {"phase": "train", "batch_size_per_gpu": 2, "num_worker_per_gpu": 0, "name": "x"}  # noqa: RUF012

    def test_the_arguments_of_basicsr(self):
        data = TensorDataset(torch.arange(7))
        sampler = EnlargedSampler(data, 1, 0, 2)
        sampler.set_epoch(3)
        assert len(sampler) == 14
        with pytest.raises(TypeError, match="phase"):
            build_dataloader(data)
        plain = TensorDataset(torch.arange(8))
        one = build_dataloader(plain, self.OPT, num_gpu=1, dist=False, sampler=range(8), seed=0)
        two = build_dataloader(plain, self.OPT, 2, False, range(8))
        assert [len(batch) for (batch,) in one] == [2] * 4 and [len(batch) for (batch,) in two] == [4] * 2
        test = build_dataloader(data, {**self.OPT, "phase": "val"}, num_gpu=2, dist=True, sampler=None, seed=1)
        assert [batch.tolist() for (batch,) in test] == [[k] for k in range(7)]

    def test_a_data_set_keeps_its_section(self, photos):
        spec = {"type": "PairedImageDataset", "name": "P", "dataroot_gt": str(photos), "scale": 2, "phase": "val"}
        assert build_dataset(spec).opt["name"] == "P"

    def test_prefetchers_give_batches_and_then_none(self):
        loader = PrefetchDataLoader(num_prefetch_queue=2, dataset=TensorDataset(torch.arange(4)), batch_size=2)
        batches = [{"lq": x} for (x,) in loader]
        for prefetcher in (CPUPrefetcher(batches), CUDAPrefetcher(batches, {"num_gpu": 0})):
            for _ in range(2):
                assert [prefetcher.next()["lq"].tolist() for _ in range(2)] == [[0, 1], [2, 3]]
                assert prefetcher.next() is None
                prefetcher.reset()

    def test_an_error_in_the_thread_is_raised(self):
        class Broken(TensorDataset):
            def __getitem__(self, index):
                raise OSError("broken file")

        loader = PrefetchDataLoader(num_prefetch_queue=1, dataset=Broken(torch.arange(4)))
        with pytest.raises(OSError, match="broken file"):
            list(loader)
