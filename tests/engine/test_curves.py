import logging

import cv2
import pytest

from basicsr.compat.plot_util import read_data_from_txt_1v, read_data_from_txt_2v
from basicsr.engine.curves import plot_curves, read_log, read_logs, smooth_data

LOG = """\
2022-12-02 00:40:00,000 INFO: Number of val images/folders in Set5: 5
2022-12-02 00:40:01,000 INFO: Model [SRModel] is created.
2022-12-02 00:48:03,899 INFO: [train..][epoch:  0, iter:     100, lr:(5.000e-04,1.000e-04,)] \
[eta: 7 days, 4:32:25, time (data): 0.617 (0.008)] l_pix: 2.0122e-02 l_fakd: 1.5000e+00
2022-12-02 00:49:03,899 INFO: [train..][epoch:  0, iter:   3,200, lr:(2.500e-04,1.000e-04,)] \
[eta: 4:32:25, time (data): 0.617 (0.008)] l_pix: 1.0000e-02 l_fakd: nan
2022-12-02 00:49:13,899 INFO: Validation Set5
\t # psnr: 38.6039\tBest: 38.6039 @ 3,250 iter
\t # ssim: 0.9629\tBest: 0.9629 @ HAT_SRx2 iter

2022-12-02 00:49:13,899 INFO: Validation Set14
\t # psnr: 33.1\tBest: 34.0000 @ 100 iter
2022-12-02 00:49:14,000 INFO: Saving models and training states.
\t # psnr: 1.0
"""


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "train_toy.log"
    path.write_text(LOG)
    return path


def test_read_log(log):
    series = read_log(log)
    assert str(series.pop("losses/l_fakd")) == "{100: 1.5, 3200: nan}"
    assert series == {
        "losses/l_pix": {100: 2.0122e-2, 3200: 1e-2},
        "lr": {100: 5e-4, 3200: 2.5e-4},
        "lr/1": {100: 1e-4, 3200: 1e-4},
        "metrics/Set5/psnr": {3250: 38.6039},
        "metrics/Set5/ssim": {3250: 0.9629},
        "metrics/Set14/psnr": {3250: 33.1},
    }


def test_read_log_of_a_resumed_run(log):
    again = LOG.splitlines()[2].replace("2.0122e-02", "3.0000e-02")
    log.write_text(LOG + again + "\n")
    assert read_log(log)["losses/l_pix"] == {100: 3e-2, 3200: 1e-2}


def test_read_logs_merges_the_parts_of_a_run(tmp_path):
    line = "[train..][epoch:  0, iter: {:7,d}, lr:(1.000e-04,)] [eta: 1:00:00, time (data): 0.6 (0.0)] l_pix: {:.4e}\n"
    (tmp_path / "train_2.log").write_text(line.format(200, 0.2) + line.format(300, 0.1))
    (tmp_path / "train_1.log").write_text(line.format(100, 0.5) + line.format(200, 0.4))
    series = read_logs(tmp_path.glob("*.log"))
    assert list(series["losses/l_pix"].items()) == [(100, 0.5), (200, 0.2), (300, 0.1)]


def test_reports_of_best_are_read(tmp_path):
    from basicsr.metrics.evaluate import Best, Scores

    best, scores = Best({"psnr": {"type": "calculate_psnr"}}), Scores("Set5", {"a": {"psnr": 30.25}})
    best.update(scores, 5000)
    (tmp_path / "log").write_text(f"2022-12-02 00:49:13,899 INFO: {best.report(scores)}\n")
    assert read_log(tmp_path / "log") == {"metrics/Set5/psnr": {5000: 30.25}}


def test_basicsr_readers(log):
    assert read_data_from_txt_2v(log, r".*iter: *([\d,]+), lr.*l_pix: (\S+)") == ([100, 3200], [2.0122e-2, 1e-2])
    assert read_data_from_txt_2v(log, r".*iter: *([\d,]+), lr.*l_pix: (\S+)", step_one=True)[0] == [101, 3201]
    assert read_data_from_txt_1v(log, r"# psnr: (\S+)") == [38.6039, 33.1, 1.0]
    assert smooth_data([1.0, 3.0, 5.0], 0.5) == [1.0, 2.0, 3.5]


def test_curves_are_drawn(log, tmp_path):
    plot_curves(read_log(log), tmp_path / "new" / "curves.png", title="toy")
    picture = cv2.imread(str(tmp_path / "new" / "curves.png"))
    assert picture.shape[1] == 960 and picture.min() < 128 < picture.max()


def test_a_log_without_values_gives_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="basicsr"):
        plot_curves({}, tmp_path / "curves.png")
    assert "not drawn" in caplog.text and not (tmp_path / "curves.png").exists()
