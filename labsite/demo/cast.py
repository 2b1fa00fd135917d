"""Who and what the demo lab is made of: people, bodies of work, hosts. Names only."""

from dataclasses import dataclass, field
from typing import Any

#: username, given name, family name; the first one is the lab's manager.
PEOPLE = [
    ("yoon", "Jaehyun", "Yoon"), ("seoyeon", "Seoyeon", "Lee"), ("minjun", "Minjun", "Kim"),
    ("jiho", "Jiho", "Park"), ("haeun", "Haeun", "Choi"), ("doyun", "Doyun", "Jung"),
    ("yuna", "Yuna", "Kang"), ("siwoo", "Siwoo", "Han"), ("jiwon", "Jiwon", "Lim"),
    ("eunseo", "Eunseo", "Shin"), ("taeyang", "Taeyang", "Oh"), ("nari", "Nari", "Seo"),
    ("hyunwoo", "Hyunwoo", "Kwon"), ("soomin", "Soomin", "Hwang"), ("anna", "Anna", "Lindqvist"),
    ("rahul", "Rahul", "Mehta"),
]  # fmt: skip

#: How much each person submits, in the order above: labs are never even.
APPETITE = [1, 14, 11, 10, 8, 7, 6, 5, 5, 4, 4, 3, 3, 2, 2, 2]

VISION = ["train/loss", "test/loss", "test/accuracy", "lr"]
SEGMENT = ["train/loss", "val/loss", "val/mIoU", "val/pixel_accuracy", "lr", "grad_norm"]
DETECT = [
    "train/loss", "train/loss_box", "train/loss_cls", "train/loss_dfl", "val/loss", "val/mAP50",
    "val/mAP50-95", "val/precision", "val/recall", "lr", "grad_norm", "images_per_second",
]  # fmt: skip
LANGUAGE = [
    "train/loss", "train/perplexity", "eval/loss", "eval/perplexity", "eval/accuracy", "lr",
    "grad_norm", "tokens_per_second",
]  # fmt: skip
REWARD = ["reward/mean", "reward/std", "kl", "policy/loss", "value/loss", "entropy", "lr"]
#: A hundred of them: one for each layer of a network, and then some.
PROBES = [
    "train/loss", "eval/accuracy", "lr", "grad_norm",
    *[f"probe/layer_{n:02d}/{of}" for n in range(32) for of in ("accuracy", "f1", "loss")],
]  # fmt: skip


@dataclass(frozen=True)
class Work:
    """A project: what its runs measure, what they vary, and what they ask for."""

    name: str
    metrics: list[str]
    vary: dict[str, list[Any]] = field(default_factory=dict)
    epochs: tuple[int, ...] = (50, 100)
    gpus: tuple[int, ...] = (1, 1, 1, 2)
    gpu_type: str = ""
    description: str = ""


_LR = [0.0001, 0.0003, 0.001, 0.003, 0.01]
WORKS = [
    Work("mstar-curriculum", VISION, {
        "model": ["resnet18", "resnet34", "convnext_tiny"], "lr": _LR, "batch_size": [32, 64, 128],
        "optimizer": ["adam", "sgd"], "curriculum": ["none", "fisher", "loss"],
    }, description="Curriculum by Fisher criterion on MSTAR, from easy to hard"),
    Work("fixmatch-ssl", VISION, {
        "model": ["wrn-28-2", "wrn-28-8"], "labels": [40, 250, 4000], "lr": [0.01, 0.03],
        "threshold": [0.9, 0.95, 0.98], "mu": [3, 7],
    }, epochs=(100, 200), gpus=(1, 2, 4), description="Semi-supervised baselines"),
    Work("sar-flow", SEGMENT, {
        "model": ["raft", "gma", "flowformer"], "lr": _LR[:4], "iters": [8, 12, 20],
        "dataset": ["sentinel1", "terrasar-x"],
    }, gpus=(1, 2, 2, 4), gpu_type="A100", description="Optical flow between SAR passes"),
    Work("det-aerial", DETECT, {
        "model": ["yolov8m", "yolov8x", "rtmdet-l"], "lr": _LR[1:], "imgsz": [640, 1024, 1280],
        "augment": ["none", "mosaic", "mosaic+mixup"],
    }, gpus=(1, 2, 4), description="Small objects in aerial images"),
    Work("llm-probe", PROBES, {
        "model": ["llama-3.2-1b", "qwen2.5-0.5b", "gemma-2-2b"], "task": ["pos", "ner", "dep"],
        "lr": _LR[:3], "pool": ["mean", "last"],
    }, epochs=(20, 40), gpus=(1, 1, 2), description="What each layer knows of grammar"),
    Work("korean-lm", LANGUAGE, {
        "model": ["gpt-125m", "gpt-350m", "gpt-1.3b"], "lr": _LR[:3], "context": [1024, 2048],
        "tokenizer": ["bpe-32k", "unigram-48k"],
    }, epochs=(30, 60), gpus=(4, 8), gpu_type="H100", description="Small language models"),
    Work("rlhf-small", REWARD, {
        "model": ["qwen2.5-0.5b", "llama-3.2-1b"], "beta": [0.01, 0.05, 0.1, 0.2],
        "lr": [1e-06, 3e-06, 1e-05], "algorithm": ["ppo", "grpo"],
    }, epochs=(40,), gpus=(2, 4, 8), gpu_type="H100"),
    Work("lane-seg", SEGMENT, {
        "model": ["segformer-b0", "segformer-b3", "deeplabv3"], "lr": _LR[:4],
        "crop": [512, 768], "batch_size": [8, 16],
    }, gpus=(1, 2)),
    Work("cifar-sanity", VISION, {
        "model": ["resnet18", "vit_tiny"], "lr": _LR, "batch_size": [128, 256],
        "optimizer": ["adam", "sgd", "lion"],
    }, epochs=(10, 30), gpus=(1,), description="Is everything still as it was?"),
    Work("medical-3d", SEGMENT, {
        "model": ["unet3d", "swin-unetr"], "lr": _LR[:3], "patch": [96, 128],
        "organ": ["liver", "kidney", "pancreas"],
    }, epochs=(100, 200), gpus=(1, 2), gpu_type="A6000"),
    Work("speech-ctc", LANGUAGE, {
        "model": ["conformer-s", "conformer-m"], "lr": _LR[:4], "specaugment": [True, False],
        "dataset": ["ksponspeech", "zeroth"],
    }, gpus=(2, 4)),
    Work("thesis-figures", VISION, {"model": ["resnet18"], "lr": [0.001], "figure": [1, 2, 3, 4]},
         epochs=(30,), gpus=(1,)),
]  # fmt: skip

#: card, memory in GiB, cards a host, power limit in W; hosts are made in this order, again and
#: again.
HOSTS = [
    ("NVIDIA GeForce RTX 3090", 24, 4, 350),
    ("NVIDIA RTX A6000", 48, 4, 300),
    ("NVIDIA A100-SXM4-80GB", 80, 8, 400),
    ("NVIDIA GeForce RTX 3090", 24, 4, 350),
    ("NVIDIA GeForce RTX 4090", 24, 2, 450),
    ("NVIDIA H100 80GB HBM3", 80, 8, 700),
    ("NVIDIA RTX A6000", 48, 4, 300),
    ("NVIDIA GeForce RTX 3090", 24, 8, 350),
]
TAGS = ["baseline", "ablation", "paper", "sweep", "seeds", "debug", "rebuttal"]
NOTES = [
    "Best so far; repeat with three more seeds before it goes into the table.",
    "The loss jumps when the schedule restarts. Look at the gradient norm.",
    "다음 주 세미나에서 보여 줄 것. 학습률을 더 낮춰서 한 번 더 돌려 볼 것.",
    "Same as the run before, with the data loader mended.",
    "Out of memory with a batch of 128: try accumulating gradients.",
]
