"""Shared by all tests: one kernel cache, few threads, fixed seeds, markers, targets."""

import os
import unittest.mock
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "ci",
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile("explore", settings.get_profile("ci"), derandomize=False)
settings.load_profile("ci")  # pytest --hypothesis-profile=explore draws new examples


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tenth", metavar="SEED", help="daily tests, and a tenth of the slow ones, drawn by SEED"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Before torch is imported: workers build each kernel once, and don't fight for the cores."""
    kernels = config.rootpath / ".pytest_cache" / "d" / "kernels"
    os.environ.setdefault("RNNCC_CACHE_DIR", str(kernels))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


def pytest_report_header(config: pytest.Config) -> list[str]:
    seed = config.option.tenth
    return [f"a tenth of the slow tests: again by `make test TENTH={seed}`"] if seed else []


@pytest.hookimpl(tryfirst=True)  # before marks are read
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """See tests.support.tiers."""
    from tests.support.tiers import drawn, is_slow

    slow = [item for item in items if is_slow(item)]
    for item in slow:
        item.add_marker(pytest.mark.slow)
    if config.option.tenth:
        left_out = {item.nodeid for item in slow} - drawn(slow, config.option.tenth)
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
        items[:] = [item for item in items if item.nodeid not in left_out]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module with `EVERY_TARGET = True` runs on the CPU, the emulated GPU, and a real one."""
    if not getattr(metafunc.module, "EVERY_TARGET", False):
        return
    targets: list[Any] = ["cpp", "emulated"]
    if "gpu" in metafunc.config.option.markexpr:
        targets.append(pytest.param("gpu", marks=pytest.mark.gpu))
    metafunc.parametrize("target", targets, indirect=True)


@pytest.fixture(autouse=True)
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the calls of a test run; of all tests, so that it can't be left out."""
    where: str = getattr(request, "param", "cpp")
    if where == "emulated":
        from tests.support.emulated import emulated

        with emulated():
            yield where
    elif where == "gpu":
        from tests.support import runs

        with unittest.mock.patch.object(runs, "DEVICE", "cuda"):
            yield where
    else:
        yield where


@pytest.fixture(autouse=True)
def same_draws_every_time() -> None:
    """The random numbers of a test depend neither on the run nor on the tests before it."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def two_threads() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    """torch.compile without what earlier tests have left in it."""
    import torch

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
