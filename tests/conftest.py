"""What every test shares: no network, one thread, a cache of its own, shapes checked, the tiny model and data."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",  # torch reads it when it is first imported, so that tests without torch need not import it
    "MKL_NUM_THREADS": "1",
    "RANKWRIGHT_CACHE": tempfile.mkdtemp(prefix="rankwright-tests-"),
}

import shutil
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

_CHECKED = ["rankwright.losses", "rankwright.training", "rankwright.types"]


def _check_shapes() -> None:
    """From here on shapes and dtypes are checked at every call of these modules, where beartype is installed."""
    try:
        from beartype import BeartypeConf, beartype
        from beartype.roar import BeartypeDecorHintPep3119Exception
    except ImportError:
        return
    configured = beartype(
        conf=BeartypeConf(is_pep484_tower=True)
    )  # an int may be given for a float, as type checkers do

    def check(function):
        try:
            return configured(function)
        except BeartypeDecorHintPep3119Exception:  # a structural Protocol cannot be checked at run time
            return function

    module = sys.modules["rankwright_shape_checker"] = ModuleType("rankwright_shape_checker")
    vars(module)["check"] = check
    install_import_hook(_CHECKED, "rankwright_shape_checker.check")


_check_shapes()
_TINY = Path(__file__).parent / "tiny"


@pytest.fixture(scope="session", autouse=True)
def _own_cache() -> Iterator[None]:
    yield
    shutil.rmtree(os.environ["RANKWRIGHT_CACHE"], ignore_errors=True)


@pytest.fixture(autouse=True)
def _loud() -> None:
    """A command run under ``--json`` in one test must not silence the next."""
    from rankwright import progress

    progress.quiet(False)


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """A real model folder of under 150 kB that encodes in milliseconds; never write into it."""
    return _TINY / "model"


@pytest.fixture(scope="session")
def tiny_data() -> Path:
    """A BEIR folder of 20 documents; never write into it."""
    return _TINY / "data"
