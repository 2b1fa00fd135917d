"""labrun: validation begins after training has been written, so the file gets wider on the way."""

import math
import time

import labrun

for step in range(9):
    row = {"train/loss": math.exp(-step)}
    if step % 3 == 2:
        row["val/loss"] = math.exp(-step) + 0.1
        time.sleep(0.7)  # what came before is in the file, and on its way
    labrun.log(row, step=step)
    print("truth", {"step": step, **row})
