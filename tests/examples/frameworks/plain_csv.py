"""A script that knows nothing but `csv`: a row each epoch into a file of its own."""

import csv
import random

random.seed(3)
with open("history.csv", "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["epoch", "loss", "accuracy"])
    for epoch in range(5):
        loss, accuracy = random.random(), random.random()
        writer.writerow([epoch, loss, accuracy])
        file.flush()
        print("truth", {"epoch": epoch, "loss": loss, "accuracy": accuracy})
