"""A script that keeps its history in a DataFrame and writes all of it each epoch."""

import random
import time

import pandas

random.seed(4)
history = []
for epoch in range(6):
    row = {"epoch": epoch, "train_loss": random.random()}
    if epoch % 2:
        row["val_loss"] = random.random()
    history.append(row)
    pandas.DataFrame(history).to_csv("history.csv", index=False)
    print("truth", row)
    time.sleep(0.1)
