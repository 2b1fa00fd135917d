"""One line of `lab-agent doctor`."""

from dataclasses import dataclass

FINE, DOUBTFUL, WRONG = "✓", "!", "✗"


@dataclass(frozen=True)
class Finding:
    mark: str
    topic: str
    text: str  # what was found and, unless it is fine, what to do

    def __str__(self) -> str:
        return f"{self.mark} {self.topic:<8}  {self.text}"


def fine(topic: str, text: str) -> Finding:
    return Finding(FINE, topic, text)


def doubtful(topic: str, text: str, remedy: str) -> Finding:
    return Finding(DOUBTFUL, topic, f"{text}: {remedy}")


def wrong(topic: str, text: str, remedy: str) -> Finding:
    return Finding(WRONG, topic, f"{text}: {remedy}")
