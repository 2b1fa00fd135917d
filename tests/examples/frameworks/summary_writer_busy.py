"""A script with torch's SummaryWriter that writes ten times a second, until it is told that it is
enough: the file `enough` beside it."""

import time
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

writer = SummaryWriter("runs/busy")
step = 0
while not Path("enough").exists():
    writer.add_scalar("train/loss", 1 / (1 + step), step)
    print("truth", {"step": step, "train/loss": 1 / (1 + step)})
    step += 1
    time.sleep(0.1)
writer.close()
