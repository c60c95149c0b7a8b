"""What a workload says ends up in the journal and on the link: it must be able to."""

from __future__ import annotations

import pytest

from node_agent.errors import BrokerError
from node_agent.workloads import protocol


@pytest.mark.parametrize(
    "line",
    [
        b'{"cmd":"ERROR","reason":"X","message":"\\ud800"}',
        b'{"cmd":"ERROR","reason":"X","message":"m","remedy":"\\udfff"}',
        b'{"cmd":"RESUMED","clock":"tsc","rejected":"\\udc00"}',
    ],
)
def test_half_a_surrogate_pair_is_no_text(line: bytes) -> None:
    with pytest.raises(BrokerError) as caught:
        protocol.parse_command(line)
    assert caught.value.reason == "INVALID_FIELD"


def test_a_whole_pair_is_text() -> None:
    said = protocol.parse_command(b'{"cmd":"ERROR","reason":"X","message":"\\ud83d\\ude00"}')
    assert isinstance(said, protocol.Error)
    assert said.message.encode()
