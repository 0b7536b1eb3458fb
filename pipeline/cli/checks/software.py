"""Packages, compilers and DeepSpeed's own extensions."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

from pipeline.cli.checks.row import Row

DISTRIBUTION = "audio-gst"
OPTIONAL = {
    "flash_attn": "faster attention on CUDA; SDPA is used without it: pip install --no-build-isolation flash-attn",
    "liger_kernel": "fused cross-entropy on CUDA: pip install liger-kernel",
    "ray": "data preparation on a cluster: pip install 'audio-gst[ray]'",
}
COMMAND_TIMEOUT_S = 5


def package_rows() -> Iterator[Row]:
    """Python and every package that setup.py asks for, with the range it asks for."""
    yield Row("python", "ok", platform.python_version())
    try:
        requirements = [Requirement(line) for line in importlib.metadata.requires(DISTRIBUTION) or ()]
    except importlib.metadata.PackageNotFoundError:
        yield Row(DISTRIBUTION, "bad", "not installed", "pip install -e . in the folder of the project")
        return
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _package_row(requirement)


def _package_row(requirement: Requirement) -> Row:
    advice = f"pip install '{requirement.name}{requirement.specifier}'"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Row(requirement.name, "bad", "not installed", advice)
    if not requirement.specifier.contains(version, prereleases=True):
        return Row(requirement.name, "bad", f"{version}, outside {requirement.specifier}", advice)
    return Row(requirement.name, "ok", version)


def optional_rows(has_gpu: bool) -> Iterator[Row]:
    """Packages that runs do without; on a GPU an installed one that cannot be imported is worth a warning."""
    for module, what in OPTIONAL.items():
        if importlib.util.find_spec(module) is None:
            yield Row(f"{module} (optional)", "ok", "not installed", what if has_gpu or module == "ray" else "")
            continue
        problem = _import_problem(module) if has_gpu else ""
        state, advice = ("warn", f"built for another torch? {what}") if problem else ("ok", "")
        yield Row(f"{module} (optional)", state, problem or "installed", advice)  # type: ignore[arg-type]


def _import_problem(module: str) -> str:
    try:
        importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        return f"cannot be imported: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return ""


def compiler_rows(has_gpu: bool) -> Iterator[Row]:
    """What compiles kernels when they are first used."""
    for name in ("gcc", "g++"):
        found = _version(name)
        if found or not has_gpu:
            yield Row(name, "ok", found or "not on PATH", "" if found else "not needed on CPU")
        else:
            yield Row(name, "bad", "not on PATH", "Triton compiles its launchers with it: install build-essential")
    nvcc = _version("nvcc")
    yield Row(
        "nvcc", "ok", nvcc or "not on PATH", "" if nvcc else "only building flash-attn or DeepSpeed's ops needs it"
    )
    ninja = _version("ninja")
    yield Row(
        "ninja",
        "ok" if ninja else "warn",
        ninja or "not on PATH",
        "" if ninja else "pip install ninja: DeepSpeed's ops",
    )


def launcher_row() -> Row:
    """The `deepspeed` command, on PATH or beside this Python."""
    beside = Path(sys.executable).with_name("deepspeed")
    found = shutil.which("deepspeed") or (str(beside) if beside.is_file() else None)
    if found:
        return Row("deepspeed launcher", "ok", found)
    return Row("deepspeed launcher", "bad", "not on PATH", "activate the environment, or pip install deepspeed")


def op_rows() -> Iterator[Row]:
    """DeepSpeed's compiled extensions: built, buildable when needed, or neither. No recipe needs one."""
    from pipeline.engine.ops import op_states  # the only room that imports deepspeed, which takes seconds

    states = op_states()
    for state in ("installed", "compatible", "incompatible"):
        names = sorted(name for name, found in states.items() if found == state)
        if names:
            note = {
                "installed": "",
                "compatible": "compiled when first used",
                "incompatible": "not needed by any recipe",
            }
            yield Row(f"deepspeed ops, {state}", "ok", ", ".join(names), note[state])


def _version(command: str) -> str:
    """First line of `command --version` that has a digit; empty where it is not on PATH or does not answer."""
    path = shutil.which(command)
    if path is None:
        return ""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = [line.strip() for line in done.stdout.splitlines() if any(letter.isdigit() for letter in line)]
    release = [line for line in lines if "release" in line]
    return (release or lines or [path])[0] if done.returncode == 0 else ""
