"""Which paths the globs of a config mean."""

import pytest

from agent.files.globs import Globs


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("lightning_logs/**", "lightning_logs/version_3/checkpoints/epoch=5-step=10.ckpt"),
        ("lightning_logs/**", "lightning_logs/a"),
        ("lightning_logs", "lightning_logs/version_3/metrics.csv"),
        ("lightning_logs/", "lightning_logs/version_3/metrics.csv"),
        ("./runs/**", "runs/events"),
        ("*.png", "a.png"),
        ("plots/*/loss.png", "plots/a/loss.png"),
        ("**/*.csv", "a.csv"),
        ("**/*.csv", "a/b/c.csv"),
        ("a/**/z", "a/z"),
        ("a/**/z", "a/b/c/z"),
        ("**/media/**", "a/media/x"),
        (".hydra/**", ".hydra/config.yaml"),
        ("outputs/**/.hydra", "outputs/2026/.hydra/config.yaml"),
        ("실험/**", "실험/결과.png"),
        ("v[0-9]/*", "v3/x"),
    ],
)
def test_a_glob_means(pattern: str, path: str) -> None:
    assert Globs([pattern]).match(path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("lightning_logs/**", "lightning_logs2/a"),
        ("lightning_logs/**", "old/lightning_logs/a"),
        ("*.png", "plots/a.png"),
        ("plots/*/loss.png", "plots/a/b/loss.png"),
        ("**", ".git/config"),
        ("wandb/**", "wandb/.cache/x"),
        ("*", ".env"),
        ("a/**/z", "a/b/c"),
    ],
)
def test_a_glob_does_not_mean(pattern: str, path: str) -> None:
    assert not Globs([pattern]).match(path)


@pytest.mark.parametrize(
    ("pattern", "path", "ignored"),
    [
        ("*.tmp", "a/b/c.tmp", True),
        ("*.tmp", "c.tmp", True),
        ("/c.tmp", "c.tmp", True),
        ("/c.tmp", "a/c.tmp", False),
        ("media", "wandb/run-1/files/media/images/1.png", True),
        ("wandb/**/media", "wandb/run-1/files/media/images/1.png", True),
        ("wandb/media", "x/wandb/media/1.png", False),
        ("*.log", "a/.hidden.log", True),
    ],
)
def test_what_is_ignored_is_so_as_in_a_gitignore(pattern: str, path: str, ignored: bool) -> None:
    assert Globs([pattern], everywhere=True).match(path) == ignored


def test_a_folder_in_which_nothing_can_match_is_told_at_its_name() -> None:
    globs = Globs(["lightning_logs/**", "runs/*/events*"])

    assert not globs.step(globs.start, "data")
    assert globs.step(globs.start, "runs")
    assert not globs.step(globs.step(globs.start, "runs"), ".git")
