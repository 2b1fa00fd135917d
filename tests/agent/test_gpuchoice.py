"""`--gpus`: which of this host's cards an agent offers."""

import pytest

from agent.errors import ConfigError
from agent.gpuchoice import GPUChoice
from agent.wire import GPUReading
from tests.agent.conftest import AgentProcess
from tests.agent.server import FakeServer

CARDS = [
    GPUReading("GPU-5f3a0000-1", 0, "H100"),
    GPUReading("GPU-5f3b0000-2", 1, "H100"),
    GPUReading("GPU-77", 10, "A100"),
]


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("all", [0, 1, 10]),
        ("none", []),
        ("0,1", [0, 1]),
        (" 1 , 10 ", [1, 10]),
        ("GPU-5f3a", [0]),
        ("gpu-5F3,GPU-77", [0, 1, 10]),
        ("GPU-5f3b0000-2,0", [0, 1]),
    ],
)
def test_cards_are_named_by_index_or_by_the_beginning_of_their_uuid(
    text: str, indices: list[int]
) -> None:
    assert [card.index for card in GPUChoice(text).of(CARDS)] == indices


@pytest.mark.parametrize("text", ["", ",", "GPU-", "0,none", "all,1", "-1", "x"])
def test_what_names_no_card_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ConfigError, match=r"indices as nvidia-smi shows them \(0,1\)"):
        GPUChoice(text)


def test_a_card_that_is_not_here_is_said_with_those_that_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    choice = GPUChoice("1,7")

    assert [card.index for card in choice.of(CARDS)] == [1]
    assert "--gpus names 7; the cards here: 0 GPU-5f3a0000-1, 1 GPU-5f3b0000-2" in caplog.text


def test_an_agent_tells_its_server_of_those_cards_alone(
    agent: AgentProcess, server: FakeServer
) -> None:
    agent.start("--simulate-gpus", "4", "--gpus", "1,3")
    server.wait(lambda: server.asked("/api/devices/heartbeat"))

    beat = server.asked("/api/devices/heartbeat")[0]

    assert [card["index"] for card in beat["gpus"]] in ([1, 3], [])  # [] before the first look
    server.wait(
        lambda: [c["index"] for c in server.asked("/api/devices/heartbeat")[-1]["gpus"]] == [1, 3]
    )
    left_out = server.asked("/api/devices/heartbeat")[-1]["gpus_left_out"]
    assert [uuid.rpartition("-")[2] for uuid in left_out] == ["0", "2"]


def test_a_mistake_ends_the_start_with_a_sentence(agent: AgentProcess) -> None:
    agent.start("--gpus", "0;1")

    assert agent.process is not None
    assert agent.process.wait(10) == 2
    assert "lab-agent: --gpus '0;1' is not understood" in agent.said()
