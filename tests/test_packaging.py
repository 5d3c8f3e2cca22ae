"""What gets installed: the wheel's contents, the lock, and a checkout however it is started."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import iterppo
from tools.install_torch import CPU_INDEX, attempts, pinned_version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (ROOT / "constraints.txt").read_text(encoding="utf-8")
HAS_GPU = shutil.which("nvidia-smi") is not None

# A CUDA build of torch pins these itself; the lock, which both kinds of machine read, does not.
CUDA_PACKAGE = re.compile(r"nvidia-|cuda-|triton$")


def pins() -> dict[str, str]:
    lines = [line for line in LOCK.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (x.split("==") for x in lines)}


def requirements() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"].values()
    texts = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    return [Requirement(text) for text in [*texts, *(text for extra in extras for text in extra)]]


def installed() -> dict[str, str]:
    """Name -> version, without the local part (torch 2.13.0+cpu is 2.13.0)."""
    return {
        canonicalize_name(each.metadata["Name"]): each.version.partition("+")[0]
        for each in importlib.metadata.distributions()
    }


def run_python(arguments: Sequence[str], *, cwd: Path, path: Path | None = None) -> str:
    """Standard output of a fresh Python that sees the standard library and `path`, nothing else.

    Without site-packages (-S) an editable install cannot help it to find anything.
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, "-S", "-B", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools writes beside the sources and takes up what lies there."""
    source = tmp_path_factory.mktemp("source")
    for folder in ("iterppo", "stages", "schemas"):
        shutil.copytree(
            ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    # A top-level folder that is not ours to ship.
    (source / "tests").mkdir()
    (source / "tests" / "__init__.py").touch()
    shutil.copy(ROOT / "pyproject.toml", source)
    shutil.copy(ROOT / "README.md", source)
    target = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir"]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = target.iterdir()
    return built


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    expected = {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, package in (
            ("iterppo", "iterppo"),
            ("stages", "iterppo/stages"),
            ("schemas", "iterppo/schemas"),
        )
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    } - {"iterppo/stages.pyi"}

    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}

    assert found == expected
    assert {"iterppo/py.typed", "iterppo/stages/__init__.py"} <= found


def test_pyproject_lists_every_package() -> None:
    expected = {"iterppo.schemas", "iterppo.stages"}
    for path in (ROOT / "iterppo").rglob("*.py"):
        expected.add(".".join(path.parent.relative_to(ROOT).parts))

    assert set(PROJECT["tool"]["setuptools"]["packages"]) == expected


def test_the_wheel_says_what_pyproject_and_the_source_say(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    (metadata,) = importlib.metadata.distributions(path=[str(tmp_path)])

    assert (metadata.name, metadata.version) == ("iterppo", iterppo.__version__)
    assert metadata.metadata["License-Expression"] == "Apache-2.0"
    assert {(entry.group, entry.name, entry.value) for entry in metadata.entry_points} == {
        ("console_scripts", "iterppo", "iterppo.cli:main"),
        ("iterppo.environments", "shop", "iterppo.environments.shop:Shop"),
        ("iterppo.environments", "tutor", "iterppo.environments.tutor:Tutor"),
    }


def test_an_unpacked_wheel_finds_stages_and_schemas_in_itself(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import importlib.resources, iterppo, iterppo.stages;"
        "print(iterppo.__path__, iterppo.stages.__file__);"
        "print(importlib.resources.files('iterppo.schemas').is_dir())"
    )
    package = tmp_path / "site" / "iterppo"

    found = run_python(["-c", code], cwd=tmp_path, path=tmp_path / "site")

    assert found == f"{[str(package)]} {package / 'stages' / '__init__.py'}\nTrue\n"


@pytest.mark.parametrize(
    ("arguments", "in_checkout"),
    [
        pytest.param(["-c"], False, id="from elsewhere"),
        pytest.param(["-c"], True, id="from the checkout"),
        pytest.param(["-m", "timeit", "-n1", "-r1"], True, id="by a launcher with -m"),
    ],
)
def test_a_checkout_finds_stages_and_schemas(
    arguments: list[str], in_checkout: bool, tmp_path: Path
) -> None:
    code = (
        "import importlib.resources, iterppo.stages;"
        "print(iterppo.stages.__file__, importlib.resources.files('iterppo.schemas').is_dir())"
    )

    found = run_python(
        [*arguments, code],
        cwd=ROOT if in_checkout else tmp_path,
        path=None if in_checkout else ROOT,
    )

    assert found.splitlines()[0] == f"{ROOT / 'stages' / '__init__.py'} True"


def test_a_checkout_runs_its_modules_by_name() -> None:
    assert run_python(["-m", "iterppo.stages.__init__"], cwd=ROOT) == ""


def test_every_pin_is_one_exact_version_for_every_machine() -> None:
    lines = [line for line in LOCK.splitlines() if line and not line.startswith("#")]
    exact = re.compile(r"[\w.-]+==\d[\da-z.]*")

    assert [line for line in lines if not exact.fullmatch(line)] == []
    assert len(pins()) == len(lines)
    assert [name for name in pins() if CUDA_PACKAGE.match(name)] == []


def test_every_requirement_is_pinned_within_its_bounds() -> None:
    outside = [
        str(each)
        for each in requirements()
        if not each.specifier.contains(Version(pins().get(canonicalize_name(each.name), "0")))
    ]

    assert outside == []


def test_everything_installed_is_pinned_at_its_version() -> None:
    ours_or_pip = {"iterppo", "pip", "setuptools", "wheel"}
    others = {
        name: version
        for name, version in installed().items()
        if name not in ours_or_pip and not CUDA_PACKAGE.match(name)
    }

    assert {name: version for name, version in others.items() if pins().get(name) != version} == {}


@pytest.mark.skipif(HAS_GPU, reason="a machine with a GPU may have the CUDA build of torch")
def test_no_cuda_package_is_installed_where_there_is_no_gpu() -> None:
    assert [name for name in installed() if CUDA_PACKAGE.match(name)] == []


def test_trl_stays_within_the_series_whose_internals_the_ppo_stands_on() -> None:
    (trl,) = (each for each in requirements() if each.name == "trl")

    assert str(trl.specifier) == str(Requirement("trl>=1.16,<1.17").specifier)


@pytest.mark.parametrize(
    ("index", "system", "has_gpu", "expected"),
    [
        pytest.param(
            "",
            "Linux",
            False,
            [["torch==2.0+cpu"], ["torch==2.0+cpu", "--index-url", CPU_INDEX]],
            id="Linux without GPU",
        ),
        pytest.param("", "Linux", True, [["torch==2.0"]], id="Linux with GPU"),
        pytest.param("", "Darwin", False, [["torch==2.0"]], id="a Mac"),
        pytest.param(
            "https://a/whl/cu130",
            "Linux",
            True,
            [["torch==2.0+cu130", "--index-url", "https://a/whl/cu130"]],
            id="a CUDA index",
        ),
        pytest.param(
            "https://mirror/simple/",
            "Linux",
            False,
            [["torch==2.0", "--index-url", "https://mirror/simple/"]],
            id="a mirror",
        ),
    ],
)
def test_torch_is_asked_for_in_the_build_that_fits_the_machine(
    index: str, system: str, has_gpu: bool, expected: list[list[str]]
) -> None:
    assert attempts("2.0", index=index, system=system, has_gpu=has_gpu) == expected


def test_torch_is_asked_for_in_the_pinned_version() -> None:
    assert pinned_version(LOCK) == pins()["torch"]
