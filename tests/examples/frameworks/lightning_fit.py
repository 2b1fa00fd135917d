"""PyTorch Lightning with both of its usual loggers, and nothing else."""

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset


class Line(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, _):
        loss = self.error(batch)
        self.log("train/loss", loss)
        print("truth", {"step": self.global_step, "train/loss": loss.item()})
        return loss

    def validation_step(self, batch, _):
        loss = self.error(batch)
        self.log("val/loss", loss)
        print("truth", {"step": self.global_step - 1, "val/loss": loss.item()})

    def error(self, batch):
        inputs, targets = batch
        return torch.nn.functional.mse_loss(self.layer(inputs), targets)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


pl.seed_everything(5)
inputs = torch.randn(16, 4)
data = TensorDataset(inputs, inputs.sum(1, keepdim=True))
trainer = pl.Trainer(
    max_epochs=3,
    accelerator="cpu",
    log_every_n_steps=1,
    num_sanity_val_steps=0,
    enable_progress_bar=False,
    enable_model_summary=False,
    logger=[CSVLogger("."), TensorBoardLogger(".", name="lightning_tensorboard")],
)
trainer.fit(Line(), DataLoader(data, batch_size=4), DataLoader(data, batch_size=16))
