"""Slower kernels in place of the compiled ones are told of: why, what to type, once; and modules that do not fit are not called."""

from __future__ import annotations

import sys
import warnings
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

import dynams_kernels as dk
from dynams_kernels._backends import fallback, native_modules, registry
from dynams_kernels._backends.fallback import Fallback
from dynams_kernels._backends.gpu import Gpu

# ------------------------------------------------------------------------------------ once


def test_the_first_call_in_plain_torch_warns_its_caller_and_no_other_does() -> None:
    telling = registry._Telling(Fallback("no compiled CPU kernels: a test"))
    with pytest.warns(RuntimeWarning, match="^no compiled CPU kernels: a test$") as caught:
        values, indices = telling.smallest_k(torch.tensor([3.0, 1.0, 2.0]), 2, False)
    assert (values.tolist(), indices.tolist()) == ([1.0, 2.0], [1, 2])
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        telling.smallest_k(torch.tensor([3.0, 1.0]), 1, False)
        telling.row_score(torch.eye(2), None, None, 1)


def test_whoever_tells_it_himself_hears_no_warning() -> None:
    told: list[str] = []
    missing = Fallback("it is missing")
    missing.tell(told.append)
    missing.tell(told.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        missing.tell()
    assert told == ["warning: it is missing"]


def test_what_was_asked_for_is_told_without_alarm() -> None:
    told: list[str] = []
    asked = Fallback("plain torch: DYNAMS_KERNELS_BACKEND=eager", asked_for=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked.tell()
    asked.tell(told.append)
    assert told == ["plain torch: DYNAMS_KERNELS_BACKEND=eager"]


@pytest.mark.parametrize(
    ("local_rank", "rank", "tells"),
    [("0", 8, True), ("1", 0, False), (None, 0, True), (None, 3, False)],
)
def test_of_the_processes_of_a_machine_one_warns(
    local_rank: str | None, rank: int, tells: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Fallback("it is missing").tell()
    assert len(caught) == tells


def test_a_left_over_local_rank_silences_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.warns(RuntimeWarning, match="missing"):
        Fallback("it is missing").tell()


def test_the_cpu_is_told_of_through_the_public_function(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(registry, "_fallback_of_cpu", Fallback("no compiled CPU kernels"))
    dk.tell_fallback("meta", told.append)
    assert told == []
    dk.tell_fallback(tell=told.append)
    dk.tell_fallback(torch.device("cpu"), told.append)
    assert told == ["warning: no compiled CPU kernels"]


def test_compiled_kernels_are_no_news() -> None:
    if dk.backends()["serves"]["cpu"] != "native_cpu":
        pytest.skip("the compiled kernels do not serve here")
    told: list[str] = []
    dk.tell_fallback("cpu", told.append)
    assert told == []


# ------------------------------------------------------------------------------------ GPUs


def gpu_of(monkeypatch: pytest.MonkeyPatch, module: object, choice: str = "auto") -> Gpu:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(
        "dynams_kernels._backends.gpu.on_device", lambda device: warnings.catch_warnings()
    )
    return Gpu(module, lambda: SimpleNamespace(), choice, "not built (no module)")  # type: ignore[arg-type, return-value]


def told_of(gpu: Gpu) -> list[str]:
    told: list[str] = []
    missing = gpu.fallback(0)
    if missing is not None:
        missing.tell(told.append)
    return told


def test_a_gpu_without_the_compiled_module_is_told_who_serves_and_what_to_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (told,) = told_of(gpu_of(monkeypatch, None))
    assert told.startswith(
        "warning: no compiled CUDA kernels on cuda:0: not built (no module). Triton"
    )
    assert "DYNAMS_BUILD_CUDA=required pip install" in told


def test_a_module_that_the_driver_cannot_run_is_told_of_and_not_built_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = SimpleNamespace(
        HOPPER="", why_unusable=lambda _: "the driver is too old", why_no_linear_scores=lambda _: ""
    )
    (told,) = told_of(gpu_of(monkeypatch, module))
    assert "the driver is too old. Triton stands for them" in told
    assert "pip install" not in told


@pytest.mark.parametrize("choice", ["eager", "triton"])
def test_a_gpu_that_is_to_be_served_otherwise_raises_no_alarm(
    choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (told,) = told_of(gpu_of(monkeypatch, None, choice))
    assert told.endswith(f"DYNAMS_KERNELS_BACKEND={choice}")
    assert "warning" not in told


def test_a_gpu_that_the_compiled_kernels_serve_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(
        HOPPER="", why_unusable=lambda _: "", why_no_linear_scores=lambda _: ""
    )
    assert told_of(gpu_of(monkeypatch, module)) == []


# ------------------------------------------------------------------------------------ modules as they are found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where modules of the package are looked for beside its own."""
    monkeypatch.setattr(dk, "__path__", [*dk.__path__, str(tmp_path)])
    monkeypatch.setattr(native_modules, "_folder", lambda: tmp_path)
    return tmp_path


def test_a_module_that_is_not_there_is_not_built(folder: Path) -> None:
    found = native_modules.load("_nothing")
    assert (found.module, found.present) == (None, False)
    assert found.why_not is not None
    assert found.why_not.startswith("not built (")


def test_a_module_for_another_python_is_named(folder: Path) -> None:
    (folder / "_other.cpython-38-x86_64-linux-gnu.so").touch()
    (folder / "_other.pyi").touch()
    told = native_modules.load("_other").why_not
    assert told is not None
    assert told.startswith(
        "not built for this Python, only as _other.cpython-38-x86_64-linux-gnu.so ("
    )


@pytest.mark.parametrize("suffix", EXTENSION_SUFFIXES)
def test_a_module_that_cannot_be_loaded_says_why(suffix: str, folder: Path) -> None:
    (folder / f"_broken{suffix}").write_text("of an earlier build")
    found = native_modules.load("_broken")
    assert (found.module, found.present) == (None, True)
    assert found.why_not is not None
    assert found.why_not.startswith("cannot be loaded: ")
    assert "\n" not in found.why_not


@pytest.mark.parametrize("interface", [None, "of another stub"])
def test_a_module_older_than_the_python_code_is_not_called(
    interface: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "_old.pyi").write_text("INTERFACE: str\n")
    module = ModuleType("dynams_kernels._old")
    if interface is not None:
        module.INTERFACE = interface  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dynams_kernels._old", module)
    found = native_modules.load("_old")
    assert (found.module, found.present) == (None, True)
    assert found.why_not is not None
    assert found.why_not.startswith("of another version than the Python code: ")


def test_a_module_of_this_stub_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("dynams_kernels._new")
    monkeypatch.setitem(sys.modules, "dynams_kernels._new", module)
    assert native_modules.load("_new").module is module, "without a stub there is nothing to ask"
    (folder / "_new.pyi").write_text("INTERFACE: str\n")
    module.INTERFACE = "a4317021d7227296"  # type: ignore[attr-defined]  # of `sha256sum`, its first 16 digits
    assert native_modules.load("_new").module is module


# ------------------------------------------------------------------------------------ what to type


def test_a_source_tree_is_what_is_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "my tree"
    (source / "csrc").mkdir(parents=True)
    (source / "setup.py").touch()
    monkeypatch.setattr(fallback, "__file__", str(source / "dynams_kernels" / "_backends" / "x.py"))
    told = fallback.how_to_build("DYNAMS_BUILD_CPU", "a C++ compiler")
    assert told.endswith(f": DYNAMS_BUILD_CPU=required pip install -v -e '{source}'")


@pytest.mark.parametrize("there", [True, False])
def test_an_installed_package_is_built_from_where_it_came_from(
    there: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "tree"
    if there:
        (source / "csrc").mkdir(parents=True)
        (source / "setup.py").touch()
    monkeypatch.setattr(
        fallback, "__file__", str(tmp_path / "site" / "dynams_kernels" / "a" / "x.py")
    )
    came = SimpleNamespace(read_text=lambda name: f'{{"url": "file://{source}", "dir_info": {{}}}}')
    monkeypatch.setattr(fallback.importlib.metadata, "distribution", lambda name: came)
    told = fallback.how_to_build("DYNAMS_BUILD_CPU", "a C++ compiler")
    want = f"pip install -v {source}" if there else "in the folder of its source: "
    assert want in told
