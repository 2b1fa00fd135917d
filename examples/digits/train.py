"""Train a small convolutional network on scikit-learn's handwritten digits.

A real training job, and the pattern for your own: it needs nothing of the lab's but a few
environment variables, and runs without them too.

    LAB_METRICS_CSV   a row per epoch, flushed, so that the curve moves while it trains
    LAB_CHECKPOINT    all that is needed to go on, replaced by rename after each epoch
    LAB_RESUME_FROM   such a checkpoint: training goes on after its epoch

By hand:  python examples/digits/train.py --run-dir runs/digits
"""

import argparse
import csv
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import yaml
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

COLUMNS = ["epoch", "train_loss", "test_loss", "test_accuracy", "learning_rate", "seconds"]


@dataclass(frozen=True)
class Config:
    """The experiment's own keys in digits.yaml; all others are somebody else's business."""

    seed: int = 0
    epochs: int = 80
    batch_size: int = 64
    learning_rate: float = 0.002
    weight_decay: float = 0.01
    width: int = 32
    dropout: float = 0.2
    test_share: float = 0.25
    #: For a network as small as this a second one costs more than it brings.
    cpu_threads: int = 1
    #: Let an epoch last at least so long: for showing a moving curve. 0 trains at full speed.
    epoch_seconds: float = 0.0

    @classmethod
    def read(cls, path: Path) -> "Config":
        given = yaml.safe_load(path.read_text()) or {}
        return cls(**{f.name: given[f.name] for f in fields(cls) if f.name in given})


@dataclass(frozen=True)
class Places:
    """Where the run's files lie: the lab says so, or else they go into one folder."""

    metrics: Path
    checkpoint: Path
    resume_from: Path | None

    @classmethod
    def find(cls, run_dir: Path) -> "Places":
        run_dir.mkdir(parents=True, exist_ok=True)
        resume_from = os.environ.get("LAB_RESUME_FROM")
        return cls(
            metrics=Path(os.environ.get("LAB_METRICS_CSV") or run_dir / "metrics.csv"),
            checkpoint=Path(os.environ.get("LAB_CHECKPOINT") or run_dir / "checkpoint.pt"),
            resume_from=Path(resume_from) if resume_from else None,
        )


class Digits:
    """1 797 images of 8 × 8 pixels: float32 of shape (n, 1, 8, 8) in 0..1, labels int64 (n,)."""

    def __init__(self, config: Config, device: torch.device) -> None:
        pixels, labels = load_digits(return_X_y=True)
        parts = train_test_split(
            pixels.reshape(-1, 1, 8, 8).astype("float32") / 16,
            labels,
            test_size=config.test_share,
            stratify=labels,
            random_state=config.seed,
        )
        tensors = [torch.as_tensor(part, device=device) for part in parts]
        self.train_images, self.test_images, self.train_labels, self.test_labels = tensors

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The training images once, in a new order, each a little turned, scaled and moved."""
        order = torch.randperm(len(self.train_images)).to(self.train_images.device)
        for chosen in order.split(size):
            yield jittered(self.train_images[chosen]), self.train_labels[chosen]


def jittered(images: Tensor) -> Tensor:
    """Turn by up to 10°, scale by up to 10 % and move by up to 0.8 pixels, each its own way."""
    count = len(images)
    angle, scale = (torch.rand(2, count) * 2 - 1) * torch.tensor([[0.175], [0.1]])
    shift = (torch.rand(count, 2, 1) * 2 - 1) * 0.2
    cos, sin = torch.cos(angle) * (1 + scale), torch.sin(angle) * (1 + scale)
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    affine = torch.cat([turn, shift], 2).to(images.device)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def network(config: Config) -> nn.Sequential:
    """Two convolutions at 8 × 8, two at 4 × 4, and a linear layer: (n, 1, 8, 8) → (n, 10)."""
    width = config.width

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *block(1, width),
        *block(width, width),
        nn.MaxPool2d(2),
        *block(width, 2 * width),
        *block(2 * width, 2 * width),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(config.dropout),
        nn.Linear(8 * width, 10),
    )


class Training:
    """A network, its optimizer and how far they are; all of it can be saved and loaded."""

    def __init__(self, config: Config) -> None:
        torch.set_num_threads(config.cpu_threads)
        torch.manual_seed(config.seed)
        self.config = config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.digits = Digits(config, self.device)
        self.network = network(config).to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, config.epochs)
        self.epochs_done = 0

    def one_epoch(self) -> dict[str, float]:
        """Train on every image once, then measure on those held out."""
        learning_rate = self.schedule.get_last_lr()[0]
        self.network.train()
        total = 0.0
        for images, labels in self.digits.batches(self.config.batch_size):
            self.optimizer.zero_grad()
            loss = functional.cross_entropy(self.network(images), labels)
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(images)
        self.schedule.step()
        self.epochs_done += 1
        return {
            "epoch": self.epochs_done,
            "train_loss": total / len(self.digits.train_images),
            **self.measure(),
            "learning_rate": learning_rate,
        }

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        self.network.eval()
        scores = self.network(self.digits.test_images)
        right = scores.argmax(1) == self.digits.test_labels
        return {
            "test_loss": functional.cross_entropy(scores, self.digits.test_labels).item(),
            "test_accuracy": right.float().mean().item(),
        }

    def save(self, path: Path) -> None:
        """Replace the checkpoint in one step: a reader finds the old one or the new one."""
        # The random state is part of it: a run that was interrupted ends with the same curve.
        state = {
            "epoch": self.epochs_done,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state()
        unfinished = path.with_name(path.name + ".tmp")
        torch.save(state, unfinished)
        unfinished.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"])
        self.epochs_done = state["epoch"]


class Metrics:
    """The run's CSV. A row is there for others to read as soon as it is written."""

    def __init__(self, path: Path, epochs_done: int) -> None:
        self._file = path.open("a", newline="")
        self._file.truncate(self._size_up_to(path, epochs_done))
        self._writer = csv.DictWriter(self._file, COLUMNS)
        if self._file.tell() == 0:
            self._writer.writeheader()

    @staticmethod
    def _size_up_to(path: Path, epochs_done: int) -> int:
        """The bytes that an earlier try wrote before its last checkpoint, and not after."""
        if epochs_done == 0:
            return 0
        header, *rows = path.read_bytes().splitlines(keepends=True) or [b""]
        kept = [row for row in rows if int(row.partition(b",")[0]) <= epochs_done]
        return len(header) + sum(map(len, kept))

    def write(self, row: dict[str, float]) -> None:
        self._writer.writerow(
            {name: value if name == "epoch" else f"{value:.6g}" for name, value in row.items()}
        )
        self._file.flush()


def train(config: Config, places: Places) -> float:
    """Train to the last epoch and return the accuracy on the held-out images."""
    training = Training(config)
    if places.resume_from:
        training.load(places.resume_from)
        print(f"Going on after epoch {training.epochs_done}, from {places.resume_from}")
    metrics = Metrics(places.metrics, training.epochs_done)
    counts = len(training.digits.train_images), len(training.digits.test_images)
    print(f"{config}\non {training.device}, with {counts[0]} images, {counts[1]} held out")
    while training.epochs_done < config.epochs:
        began = time.monotonic()
        row = training.one_epoch()
        time.sleep(max(0.0, config.epoch_seconds - (time.monotonic() - began)))
        row["seconds"] = time.monotonic() - began
        metrics.write(row)
        training.save(places.checkpoint)
        print(
            f"epoch {row['epoch']:3d}/{config.epochs}  train loss {row['train_loss']:.4f}  "
            f"test loss {row['test_loss']:.4f}  accuracy {row['test_accuracy']:.2%}  "
            f"{row['seconds']:.2f} s"
        )
    return training.measure()["test_accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("digits.yaml"))
    parser.add_argument(
        "--run-dir", type=Path, default=Path(os.environ.get("LAB_RUN_DIR", "runs"))
    )
    args = parser.parse_args()
    accuracy = train(Config.read(args.config), Places.find(args.run_dir))
    print(f"Accuracy on the held-out images: {accuracy:.2%}")


if __name__ == "__main__":
    main()
