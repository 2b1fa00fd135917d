"""Hugging Face's Trainer on a tiny model with random weights; nothing is downloaded."""

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

torch.manual_seed(6)
shape = BertConfig(
    vocab_size=32,
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=1,
    max_position_embeddings=8,
)
data = [
    {"input_ids": torch.randint(32, (8,)), "labels": torch.tensor(number % 2)}
    for number in range(16)
]
trainer = Trainer(
    BertForSequenceClassification(shape),
    TrainingArguments(
        "out",
        max_steps=8,
        per_device_train_batch_size=4,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=4,
        save_steps=4,
        report_to=["tensorboard"],
        use_cpu=True,
        disable_tqdm=True,
    ),
    train_dataset=data,
    eval_dataset=data,
)
trainer.train()
for entry in trainer.state.log_history:
    print("truth", entry)
