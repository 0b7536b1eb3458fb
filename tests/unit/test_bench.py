"""The frame of the benchmarks: names, figures, ratios, memory. What they measure is not tested here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.cli.bench import CHECKOUT, find_benchmarks
from pipeline.errors import ConfigError
from tests.bench import common, sketch_accuracy
from tests.bench.gradients import energy_share, heavy_tailed_gradients
from tests.bench.lora_stack import lora_stack
from tests.bench.prepare_memory import write_openaqa
from tests.launching import run_command

ALLOCATED_BYTES = 200_000_000


def test_every_benchmark_is_listed_with_a_line() -> None:
    known = find_benchmarks(CHECKOUT)
    assert "prepare" in known and "common" not in known
    assert all(line and "_" not in name for name, line in known.items())
    listed = run_command("gst", "bench")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(known)


def test_an_unknown_benchmark_is_refused_with_the_nearest_name() -> None:
    done = run_command("gst", "bench", "prepair", "--quick")
    assert done.returncode == 2
    assert "no such benchmark" in done.stderr and "did you mean prepare?" in done.stderr


def test_options_reach_the_benchmark_and_its_exit_code_comes_back() -> None:
    shown = run_command("gst", "bench", "prepare", "--help")
    assert shown.returncode == 0 and "--rows" in shown.stdout
    assert run_command("gst", "bench", "prepare", "--parts", "nonsense").returncode == 2


def test_without_a_checkout_there_are_no_benchmarks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="benchmarks live in the repository"):
        find_benchmarks(tmp_path)


@pytest.mark.parametrize(
    ("value", "better", "is_met"),
    [(0.8, "higher", True), (0.79, "higher", False), (0.8, "lower", True), (0.81, "lower", False)],
)
def test_a_figure_is_one_line_and_a_miss_is_said(
    value: float, better: str, is_met: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert common.figure("speed", value, "ratio", target=0.8, better=better) is is_met
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"FIGURE speed {value} ratio"
    assert ("MISSED" in second) is not is_met and ("met" in second) is is_met


def test_a_figure_without_target_is_alone(capsys: pytest.CaptureFixture[str]) -> None:
    common.figure("lost", 0, "files")
    assert capsys.readouterr().out == "FIGURE lost 0 files\n"


def test_what_could_not_be_measured_is_no_figure(capsys: pytest.CaptureFixture[str]) -> None:
    common.not_measured("speed", "the peer is not installed")
    assert capsys.readouterr().out == "  speed: NOT MEASURED: the peer is not installed\n"


def test_ratios_are_taken_round_by_round() -> None:
    one = common.ratio((2.0, 40.0, 9.0), (1.0, 10.0, 3.0))
    assert one.rounds == (2.0, 4.0, 3.0) and one.median == 3.0
    assert str(one) == "3.000 (2.000 to 4.000 over 3 rounds)"
    other = common.Ratio((8.0, 1.0, 27.0))
    assert common.geometric_mean([one, other]).rounds == pytest.approx((4.0, 2.0, 9.0))


def test_ways_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    ways = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = common.alternate(ways, rounds=3)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    rounds = ["".join(order[start : start + 3]) for start in range(0, 12, 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert {one[0] for one in rounds[1:]} == {"a", "b", "c"}


def test_peak_memory_counts_a_child_that_is_gone_at_the_end(tmp_path: Path) -> None:
    allocate = f"import time; block = b'x' * {ALLOCATED_BYTES}; time.sleep(1)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {allocate!r}]); print('done'); sys.exit(3)"
    measured = common.measure_command([sys.executable, "-c", parent], tmp_path / "log")
    assert (measured.exit_code, measured.output) == (3, "done\n")
    assert ALLOCATED_BYTES < measured.peak_bytes < 1.5 * ALLOCATED_BYTES
    assert measured.seconds >= 1


def test_a_process_that_is_gone_holds_no_memory() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert common.tree_bytes(process.pid) == 0


def test_differing_names_each_path_that_is_not_in_both(tmp_path: Path) -> None:
    for number, files in enumerate(({"a": "1", "b": "2", ".c": "3"}, {"a": "1", "b": "9", "sub/d": "4"})):
        for name, content in files.items():
            path = tmp_path / str(number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    one, other = (common.tree_digests(tmp_path / str(number)) for number in range(2))
    assert common.differing(one, one) == []
    assert common.differing(one, other) == [".c", "b", "sub/d"]


def test_the_synthetic_openaqa_has_the_shape_of_the_real_one(tmp_path: Path) -> None:
    n_clips, n_present = write_openaqa(tmp_path / "openaqa", tmp_path / "tones", 660, 14)
    rows = json.loads((tmp_path / "openaqa/openaqa.json").read_text())
    assert len(rows) == 660 and len({row["audio_id"] for row in rows}) == n_clips == 100
    assert {tuple(row) for row in rows} == {("instruction", "input", "audio_id", "dataset", "task", "output")}
    assert len({row["audio_id"] for row in rows[:n_clips]}) == n_clips  # questions of a clip are far apart
    stems = {Path(row["audio_id"]).stem for row in rows}
    audio = list((tmp_path / "openaqa/audio").rglob("*.wav"))
    assert len(audio) == n_present == 13
    assert all(path.stem in stems and path.stat().st_size > 16_000 for path in audio)


def test_the_gpu_benchmark_runs_bare_and_says_that_there_is_no_gpu() -> None:
    # What a bare GPU machine lacks must not be imported, whether it is installed here or not.
    lacking = ["psutil", "numba", "pydantic", "yaml", "transformers", "deepspeed", "typer", "rich", "scipy", "pytest"]
    code = f"import sys; sys.modules.update(dict.fromkeys({lacking}))\nfrom tests.bench import sketch_gpu"
    done = run_command(sys.executable, "-c", f"{code}\nsketch_gpu.main([])")
    assert done.returncode == 0, done.stderr
    assert "FIGURE" not in done.stdout
    for name in ("fraction_of_copy_bandwidth", "lora_sketch_over_backward"):
        assert f"{name}: NOT MEASURED" in done.stdout


def test_the_stack_of_the_gpu_benchmark_has_the_tensors_it_names() -> None:
    model = lora_stack(width=256, layers=2, device=torch.device("cpu"))
    model(torch.randn(1, 8, 256, dtype=torch.bfloat16)).float().square().mean().backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) * 16 == 448
    assert all("lora_" in name and bool(parameter.grad.abs().sum() > 0) for name, parameter in trained.items())


def test_synthetic_gradients_are_heavy_tailed_and_their_cosines_exact() -> None:
    gradients = heavy_tailed_gradients(seed=1, shrink=32)
    whole = gradients.whole.double()
    assert energy_share(whole, 0.01) > 0.7
    assert gradients.cosines.min() < -0.1 and gradients.cosines.max() > 0.2
    first = whole[0] @ whole[1] / (whole[0].norm() * whole[1].norm())
    assert torch.allclose(gradients.cosines[0], first) and len(gradients.cosines) == 15


def test_the_error_of_a_plain_fold_shows_and_that_of_ours_is_at_theory() -> None:
    gradients = heavy_tailed_gradients(seed=1, shrink=32)
    ours, plain = (
        sketch_accuracy.scaled_rms(sketch_accuracy.cosine_errors(project, gradients, 1024, 20), 1024)
        for project in (sketch_accuracy.rotated_fold, sketch_accuracy.plain_fold)
    )
    assert 0.7 < ours < 1.2 < 2 < plain
