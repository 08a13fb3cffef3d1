"""Where results go: unusable targets are refused before the first step, and what is there is not destroyed."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from timm_jackpot.artifact import read_artifact, save
from timm_jackpot.audit import AuditConfig, audit_jackpot
from timm_jackpot.errors import ConfigError, JackpotError
from timm_jackpot.experiments.comparison import CompareConfig, compare_masks
from timm_jackpot.experiments.sweeps import SweepConfig, run_sweep
from timm_jackpot.experiments.transfer import TransferConfig, transfer_masks
from timm_jackpot.runtime.lock import locked
from timm_jackpot.runtime.outputs import check_output, write_atomically
from timm_jackpot.search import SearchConfig, search_jackpot
from timm_jackpot.training import read_record
from timm_jackpot.training.finetune import FinetuneConfig, finetune_jackpot
from timm_jackpot.training.pretrain import PretrainConfig, pretrain_base

pytestmark = pytest.mark.usefixtures("few_digits")


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def jackpot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs") / "j"
    search_jackpot(SearchConfig(steps=1, output=str(folder)))
    return folder


def pretrain(folder: Path | str, **settings: object) -> dict[str, object]:
    flags = {"model": "digits_resnet", "steps": 1, "batch_size": 32, "output": str(folder), **settings}
    return pretrain_base(PretrainConfig(**flags))  # pyright: ignore


def finetune(artifact: Path, folder: Path | str, **settings: object) -> dict[str, object]:
    flags = {"artifact": str(artifact), "steps": 1, "output": str(folder), **settings}
    return finetune_jackpot(FinetuneConfig(**flags))  # pyright: ignore


# -- targets ----------------------------------------------------------------------------------------

VERBS: dict[str, Callable[[str, str], object]] = {
    "search": lambda output, _: search_jackpot(SearchConfig(steps=1, output=output)),
    "pretrain": lambda output, _: pretrain(output),
    "finetune": lambda output, artifact: finetune(Path(artifact), output),
    "sweep": lambda output, _: run_sweep(SweepConfig(sweep="cifar10_resnet20_sweep", output=output)),
    "transfer": lambda output, _: transfer_masks(TransferConfig(transfer="transfer_small", output=output)),
    "audit": lambda output, artifact: audit_jackpot(AuditConfig(artifact=artifact, output=output)),
    "compare": lambda output, artifact: compare_masks(CompareConfig(artifacts=(artifact, artifact), output=output)),
}
TARGETS = {
    "/dev/null": "is not a folder",
    "/dev/null/j": "is not a folder",
    "file": "is not a folder",
    "file/j": "is not a folder",
    "dangling": "is not a folder",
    "n" * 249: "is too long",
    "n" * 5000: "is too long",
    "a" * 260 + "/j": "is too long",
    "a/" * 3000: "cannot be written: File name too long",
    "ü" * 125: "is too long",
    ".": "is not a folder name",
    "..": "is not a folder name",
    "a\0b": "is not a folder name",
}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: repr(target[:12]))
def test_an_unusable_target_is_told_by_a_sentence(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=f"^--output .*{TARGETS[target]}"):
        check_output(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_refuses_it_before_anything_is_loaded(
    verb: str, jackpot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("something was loaded")

    monkeypatch.chdir(tmp_path)
    for name in (
        "base.load.load_base",
        "training.pretrain._build",
        "training.finetune.open_artifact",
        "audit.run.open_artifact",
        "experiments.comparison.run.artifact_columns",
        "experiments.transfer.run.open_target",
    ):
        monkeypatch.setattr(f"timm_jackpot.{name}", never)
    for target in ("/dev/null", "n" * 249, "."):
        with pytest.raises(ConfigError, match=r"^--output "):
            VERBS[verb](target, str(jackpot))
    if verb != "search":  # where "" is the default, a fresh folder
        with pytest.raises(ConfigError, match=r"^--output '' is not a folder name: give one"):
            VERBS[verb]("", str(jackpot))
    assert not list(tmp_path.iterdir())


TESTED_ON_TRAIN: dict[str, Callable[[str, str, str], object]] = {
    "search": lambda output, *_: search_jackpot(SearchConfig(test_split="train", output=output)),
    "pretrain": lambda output, *_: pretrain(output, test_split="train"),
    "finetune": lambda output, artifact, _: finetune(Path(artifact), output, test_split="train"),
    "sweep": lambda output, _, recipe: run_sweep(SweepConfig(sweep=recipe, output=output)),
    "transfer": lambda output, _, recipe: transfer_masks(TransferConfig(transfer=recipe, output=output)),
    "audit": lambda output, artifact, _: audit_jackpot(
        AuditConfig(artifact=artifact, output=output, test_split="train")
    ),
}


@pytest.mark.parametrize("verb", TESTED_ON_TRAIN)
def test_every_verb_refuses_to_test_on_train_before_its_first_step(
    verb: str, jackpot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a step was taken, or an image tested on")

    for name in (
        "methods.train.fit",
        "training.dense.fit",
        "training.finetune.evaluate_accuracy",
        "audit.evaluate.predict",
    ):
        monkeypatch.setattr(f"timm_jackpot.{name}", never)
    cells = "targets: {toy: }" if verb == "transfer" else "grid: {test_split: [train]}"
    data = "" if verb == "sweep" else "test_split: train\n"
    (tmp_path / "recipe.yaml").write_text(f"dataset: digits\nsteps: 1\n{data}{cells}\n")
    with pytest.raises(JackpotError, match="overlaps the test split"):
        TESTED_ON_TRAIN[verb](str(tmp_path / "out"), str(jackpot), str(tmp_path / "recipe.yaml"))
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_unusable(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ConfigError, match="cannot be written: Permission denied"):
        check_output(tmp_path / "locked" / "j")


def test_a_usable_one_is_left_as_it_is(tmp_path: Path) -> None:
    assert check_output(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert check_output(tmp_path / ("n" * 230)).name == "n" * 230
    assert not list(tmp_path.iterdir())


def test_the_longest_name_that_is_accepted_holds_an_artifact(tmp_path: Path) -> None:
    folder = tmp_path / ("n" * 230)
    search_jackpot(SearchConfig(steps=1, pretrained=False, output=str(folder)))
    search_jackpot(SearchConfig(steps=1, pretrained=False, output=str(folder), overwrite=True))
    assert read_artifact(folder).config.info["results"]["steps"] == 1


# -- files ------------------------------------------------------------------------------------------


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "file"
    write_atomically(path, b"old")

    def failing(error: BaseException) -> Callable[..., None]:
        def fsync(*_: object) -> None:
            raise error

        return fsync

    full = OSError(28, "No space left on device")
    for error, raised in ((full, ConfigError), (KeyboardInterrupt(), KeyboardInterrupt)):
        monkeypatch.setattr("timm_jackpot.runtime.outputs.os.fsync", failing(error))
        with pytest.raises(raised, match="file cannot be written: No space left on device" if error is full else None):
            write_atomically(path, b"newer")
        monkeypatch.undo()
        assert content(tmp_path) == {"new/file": b"old"}
    write_atomically(path, b"newest")
    assert content(tmp_path) == {"new/file": b"newest"}
    with pytest.raises(ConfigError, match="cannot be written"):
        write_atomically(path / "below", b"")


@pytest.mark.parametrize("given", ["a folder", "a file"])
def test_no_path_of_this_machine_is_in_an_artifact(given: str, tmp_path: Path) -> None:
    pretrain(tmp_path / "base")
    for split in ("train", "test"):
        for label in "ab":
            (tmp_path / "images" / split / label).mkdir(parents=True)
            for i in range(8):
                Image.new("RGB", (32, 32), (i, 0, 0)).save(tmp_path / "images" / split / label / f"{i}.png")
    if given == "a folder":
        base = {"model": f"local-dir:{tmp_path / 'base'}"}
    else:
        base = {"model": "digits_resnet", "base_checkpoint": str(tmp_path / "base" / "model.safetensors")}
    search_jackpot(
        SearchConfig(
            **base,  # pyright: ignore
            data_dir=str(tmp_path / "images"),
            num_classes=2,
            batch_size=4,
            steps=1,
            report_to="tensorboard",
            output=str(tmp_path / "j"),
        )
    )
    for name, file in content(tmp_path / "j").items():
        assert str(tmp_path).encode() not in file, name


# -- pretrain and finetune --------------------------------------------------------------------------


def test_neither_destroys_a_jackpot(jackpot: Path) -> None:
    before = content(jackpot)
    with pytest.raises(ConfigError, match=r"--output .* already contains README\.md: choose a new folder"):
        finetune(jackpot, jackpot)
    with pytest.raises(ConfigError, match="already contains"):
        pretrain(jackpot)
    assert content(jackpot) == before
    read_artifact(jackpot)


def test_neither_writes_over_a_model_or_what_is_not_theirs(tmp_path: Path) -> None:
    pretrain(tmp_path / "base")
    before = content(tmp_path)
    for again in ({}, {"resume": "auto", "lr": 0.3}):
        with pytest.raises(ConfigError, match=r"already contains config\.json: choose a new folder, or replace it"):
            pretrain(tmp_path / "base", **again)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"already contains notes\.txt"):
        pretrain(tmp_path / "mine", overwrite=True)
    assert content(tmp_path) == {**before, "mine/notes.txt": b"mine"}


def test_an_unfinished_one_is_kept_until_it_is_discarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("timm_jackpot.training.dense.evaluate_accuracy", stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tmp_path / "base")
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="holds an unfinished run: continue with --resume auto, or discard it with"):
        pretrain(tmp_path / "base")
    pretrain(tmp_path / "base", overwrite=True)
    assert list(content(tmp_path)) == [
        f"base/{name}" for name in ("config.json", "model.safetensors", "recipe.yaml", "record.jsonl")
    ]


def test_a_full_disk_leaves_no_half_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _: bytes) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("timm_jackpot.artifact.save.write_synced", full)
    with pytest.raises(JackpotError, match="could not be written: No space left on device"):
        pretrain(tmp_path / "base")
    assert {path.name for path in (tmp_path / "base").iterdir()} == {"checkpoints", "record.partial.jsonl"}
    monkeypatch.undo()
    monkeypatch.setattr("timm_jackpot.training.dense.fit", full)
    assert pretrain(tmp_path / "base", resume="auto")["steps"] == 1, "no step was done again"


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(JackpotError, match="unknown architecture"):
        pretrain(tmp_path / "a" / "b" / "c", model="nonsense")
    assert not list(tmp_path.iterdir())


def test_two_do_not_share_a_folder(jackpot: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "base"):
        for run in (lambda: pretrain(tmp_path / "base"), lambda: finetune(jackpot, tmp_path / "base")):
            with pytest.raises(ConfigError, match=rf"another run \(process {os.getpid()}\) is writing to"):
                run()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o027, 0o750), (0o077, 0o700)])
def test_others_may_read_what_a_run_writes_as_the_umask_says(
    umask: int, mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: dict[str, int] = {}
    swap = save._swap

    def look(new: Path, folder: Path) -> None:
        modes.update({path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]})
        swap(new, folder)

    monkeypatch.setattr(save, "_swap", look)  # while the checkpoints are still there
    before = os.umask(umask)
    try:
        pretrain(tmp_path / "base")
    finally:
        os.umask(before)
    folder = tmp_path / "base"
    modes |= {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.iterdir()]}
    folders = {"base", "checkpoints", "step-00000001"}
    assert modes.keys() > {*folders, "rank0.safetensors", "model.safetensors", "config.json"}
    assert modes == {name: mode if name in folders else mode & 0o666 for name in modes}


def test_they_follow_the_tracker_that_is_named_or_refuse_it(jackpot: Path, tmp_path: Path) -> None:
    for run in (
        lambda: pretrain(tmp_path / "base", report_to="nonsense"),
        lambda: finetune(jackpot, tmp_path / "base", report_to="nonsense"),
    ):
        with pytest.raises(ConfigError, match="--report-to nonsense: Accelerate knows no such tracker"):
            run()
    pretrain(tmp_path / "base", report_to="tensorboard")
    events = list((tmp_path / "base-logs").rglob("events.out.tfevents*"))
    assert any(b"step/loss" in path.read_bytes() for path in events)
    assert json.loads((tmp_path / "base" / "record.jsonl").read_text().splitlines()[-1])["kind"] == "result"
    assert [event["step"] for event in read_record(tmp_path / "base" / "record.jsonl").of("step")] == [0]
