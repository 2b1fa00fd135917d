"""A script with torch's SummaryWriter, which is stopped after step 6 and goes on from step 4."""

import math
import time

import torch
from torch.utils.tensorboard import SummaryWriter


def train(first, last, *, offset):
    writer = SummaryWriter("runs/one", purge_step=first or None)
    writer.add_text("config", "lr: 0.1")
    for step in range(first, last):
        values = {"train/loss": math.exp(-step) + offset, "train/acc": step / 10 + offset}
        writer.add_scalar("train/loss", values["train/loss"], step)
        writer.add_scalar("train/acc", values["train/acc"], step, new_style=True)
        writer.add_scalar("double", step / 3, step, new_style=True, double_precision=True)
        writer.add_histogram("weights", torch.arange(10.0), step)
        if step == 2:
            writer.add_image("picture", torch.rand(3, 64, 64), step)
            writer.add_scalars("both", {"train": 1.0, "val": 2.0}, step)
            writer.add_scalar("train/diverged", float("nan"), step)
        print("truth", {"step": step, **values})
    writer.add_hparams({"lr": 0.1}, {"hparam/best": 0.5}, run_name="hp")
    writer.close()


train(0, 7, offset=0.0)
time.sleep(1.1)  # an event file is named by the second
train(4, 9, offset=0.5)
