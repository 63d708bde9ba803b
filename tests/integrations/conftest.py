import pytest

from rrm_core.integrations.trl import unpatch_trl


@pytest.fixture(autouse=True)
def alone(threads):
    """One thread, as nothing here is large; TRL as it is installed afterwards, whatever a test did."""
    threads(1)
    yield
    unpatch_trl()
