"""The Triton kernels without a GPU: run in Triton's interpreter, and compiled for two GPU generations."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from pipeline.sketch import gpu

ROOT = Path(__file__).resolve().parents[2]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (pip install 'audio-gst[dev]')"
)


def run_python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_triton
@pytest.mark.slow
def test_the_kernels_in_tritons_interpreter() -> None:
    checks = "tests/numerics/triton_checks.py"
    done = run_python("-m", "pytest", "-p", "no:cacheprovider", "--noconftest", checks, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_kernel_compiles_and_reads_16_bytes_at_once(
    capability: int, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The interpreter accepts more than the compiler does, and says nothing about speed.
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from pipeline.sketch import multi_tensor, triton_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    k, wide = 4096, dtype.itemsize > 2
    constants = {"K": k, "G": multi_tensor._groups(k, wide), "WIDE": wide, "ALIGNED": True}
    constants["ELEMENT"] = multi_tensor._ELEMENTS[dtype]
    signature = {"pieces": "*i64", "part": "*fp32"} | dict.fromkeys(constants, "constexpr")
    source = ASTSource(triton_kernel.fold, signature=signature, constexprs=constants)
    assembly = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4}).asm["ptx"]
    loads = 8  # four rows at a time, two loads of 16 bytes for each lane
    assert assembly.count("ld.global.v4.b32") == loads
    assert "bar.sync" not in assembly and "atom." not in assembly and "red." not in assembly


@pytest.mark.parametrize("missing", ["triton", "pipeline.sketch.multi_tensor"])
def test_without_triton_everything_else_works_and_the_reason_is_said(missing: str) -> None:
    done = run_python(
        "-c",
        f"""
import sys
sys.modules[{missing!r}] = None
import torch
from pipeline.sketch import gpu, hooks, projector
print(gpu.triton_problem(torch.device("cpu")))
rows = projector.sketch_rows(torch.zeros(2, 64))
rows.add(torch.ones(100), 1, 1)
assert rows.result()[1].any() and not rows.result()[0].any()
""",
    )
    assert done.returncode == 0, done.stderr
    assert missing in done.stdout and "pip install triton" in done.stdout


def test_the_reference_is_used_and_a_warning_given_where_the_kernel_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 77)
    monkeypatch.setattr(gpu, "triton_problem", lambda device: "no C compiler")
    gpu.triton_works.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"cuda:77 .* slow torch reference.* no C compiler"):
        assert not gpu.triton_works(device)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not gpu.triton_works(device)
    gpu.triton_works.cache_clear()
