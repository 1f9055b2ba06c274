"""What all tests share."""

from __future__ import annotations

import hypothesis
import pytest

# Deadlines measure the machine, not the code.
hypothesis.settings.register_profile("headrace", deadline=None)
hypothesis.settings.load_profile("headrace")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
