"""The search as a library call, on the bundled digits."""

from __future__ import annotations

import copy
from math import inf
from pathlib import Path

import pytest
import torch

from timm_jackpot.artifact import from_pretrained, read_artifact
from timm_jackpot.base import norm_statistics, tensor_id, tensor_ids
from timm_jackpot.errors import ArtifactError, BaseError, ConfigError, DataError, TrainingError
from timm_jackpot.masks import MaskSet, keep_largest, kept_count, mask_overlap
from timm_jackpot.methods.equalise import equalise_gradients
from timm_jackpot.methods.start import proportional_scores, two_level_scores
from timm_jackpot.search import SearchConfig, search_jackpot
from timm_jackpot.training import read_record
from timm_jackpot.training.pretrain import PretrainConfig, pretrain_base

pytestmark = pytest.mark.usefixtures("few_digits")


def _search(folder: Path, **settings: object) -> object:
    return search_jackpot(SearchConfig(**{"steps": 12, "batch_size": 32, "output": str(folder), **settings}))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    return _search(tmp_path_factory.mktemp("run") / "a")


def test_counts_are_exact_over_the_whole_model(run) -> None:
    masks = run.jackpot.masks
    assert masks.kept == kept_count(masks.total, "0.9")


def test_base_weights_never_move_and_norm_statistics_do(run) -> None:
    base = run.jackpot.base
    assert tensor_ids(base.model) == base.tensors  # a search works on a copy
    moved = {name for name, extra in run.jackpot.extras.items() if tensor_id(extra.tensor) != base.tensors[name]}
    assert moved == set(norm_statistics(base.model)) == set(run.jackpot.extras)


def test_same_seed_same_mask_bit_for_bit_and_another_seed_another(run, tmp_path: Path) -> None:
    assert _search(tmp_path / "b").jackpot.masks == run.jackpot.masks
    other = _search(tmp_path / "c", seed=1).jackpot.masks
    assert other != run.jackpot.masks
    assert mask_overlap(other, run.jackpot.masks) > 0.82  # chance at 90 %


def test_loaded_logits_equal_the_searched_models_exactly(run) -> None:
    from timm_jackpot.adapter import attach

    model = copy.deepcopy(run.jackpot.base.model).eval()
    model.load_state_dict({name: extra.tensor for name, extra in run.jackpot.extras.items()}, strict=False)
    images = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        # the searched model: scores attached, the mask in force, statistics as the search left them
        attach(model, {n: m.float() for n, m in run.jackpot.masks.items()}, run.jackpot.masks.kept_per_layer())
        expected = model(images)
        loaded = from_pretrained(run.summary["artifact"])
        assert not loaded.training
        assert torch.equal(loaded(images), expected)


def test_record_can_be_read_and_ends_with_the_result(run) -> None:
    record = read_record(Path(run.summary["artifact"]) / "record.jsonl")
    kinds = [event["kind"] for event in record.events]
    assert kinds[0] == "start"
    assert kinds[-1] == "result"
    assert [e["step"] for e in record.of("step")] == [0, 10, 11]
    assert record.events[-1]["jackpot_top1"] == run.summary["jackpot_top1"]


def test_the_artifact_says_what_the_summary_says(run) -> None:
    artifact = read_artifact(run.summary["artifact"])
    assert artifact.masks.hash() == run.summary["mask_hash"]
    assert artifact.config.sparsity.maskable == (run.jackpot.masks.kept, run.jackpot.masks.total)
    total = sum(p.numel() for p in run.jackpot.base.model.parameters())
    removed = run.jackpot.masks.total - run.jackpot.masks.kept
    assert artifact.config.sparsity.all_parameters == (total - removed, total)
    assert run.summary["sparsity_all_parameters"] == pytest.approx(removed / total)


def test_paper_preset_is_the_seeds_search(tmp_path: Path) -> None:
    result = _search(tmp_path / "p", preset="paper")
    assert result.jackpot.masks.kept == kept_count(result.jackpot.masks.total, "0.9")
    steps = list(read_record(tmp_path / "p" / "record.jsonl").of("step"))
    assert all(e["sparsity"] == pytest.approx(0.9, abs=1e-4) for e in steps)  # constant from the first step


def test_gradient_accumulation_is_the_larger_batch_on_a_net_without_batch_statistics(tmp_path: Path) -> None:
    import timm
    from accelerate import Accelerator
    from accelerate.utils import GradientAccumulationPlugin

    from timm_jackpot.adapter import attach
    from timm_jackpot.base import maskable_weights
    from timm_jackpot.criteria import magnitude
    from timm_jackpot.data import DataFlags, open_data
    from timm_jackpot.training import Objective, Record, fit

    def scores_after(batch_size: int, accumulate: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = timm.create_model("test_vit", img_size=32, num_classes=10).requires_grad_(False)
        model.pretrained_cfg["input_size"] = (3, 32, 32)
        weights = maskable_weights(model).weights
        adapter = attach(model, magnitude(weights), {n: w.numel() // 2 for n, w in weights.items()})
        accelerator = Accelerator(gradient_accumulation_plugin=GradientAccumulationPlugin(accumulate))
        fit(
            accelerator=accelerator,
            model=model,
            optimizer=torch.optim.SGD(adapter.scores(), 0.1),
            objective=Objective(),
            train=open_data(DataFlags(dataset="digits"), model, device=torch.device("cpu")).train,
            batch_size=batch_size,
            seed=0,
            steps=2,
            lr_at=lambda step: 0.1,
            record=Record(),
            title="",
        )
        return adapter.scores()

    for one, two in zip(scores_after(32, 1), scores_after(16, 2), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_scores_stay_float32_under_mixed_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.state import AcceleratorState

    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    AcceleratorState._reset_state(True)
    try:
        result = _search(tmp_path / "m", steps=2)
        record = read_record(tmp_path / "m" / "record.jsonl")
    finally:
        AcceleratorState._reset_state(True)
    assert next(record.of("start"))["mixed_precision"] == "bf16"
    assert result.jackpot.masks.kept == kept_count(result.jackpot.masks.total, "0.9")
    assert all(extra.tensor.dtype == torch.float32 for extra in result.jackpot.extras.values())
    assert "forward" not in vars(result.model)  # Accelerate's wrapper is gone


def test_a_new_head_is_trained_saved_and_loaded(tmp_path: Path, shared: Path) -> None:
    result = _search(
        tmp_path / "h",
        model="cifar_resnet20",
        base_checkpoint=str(shared / "data/weights/resnet20_cifar10.safetensors"),
        num_classes=100,
        data_dir=str(shared / "data/cifar100_lossless"),
        steps=3,
    )
    assert result.summary["magnitude_top1"] is None
    assert {n for n, e in result.jackpot.extras.items() if e.role == "head"} == {"linear.weight", "linear.bias"}
    checkpoint = shared / "data/weights/resnet20_cifar10.safetensors"
    loaded = from_pretrained(tmp_path / "h", base_checkpoint=checkpoint)
    assert torch.equal(loaded.linear.weight, result.jackpot.extras["linear.weight"].tensor)


def test_steps_zero_is_the_one_shot_mask(tmp_path: Path) -> None:
    result = _search(tmp_path / "z", steps=0)
    assert result.summary["jackpot_top1"] == result.summary["magnitude_top1"]
    assert result.summary["overlap_start"] == 1
    again = _search(tmp_path / "r", steps=0, recalibrate_batches=16)
    assert again.jackpot.masks == result.jackpot.masks
    assert again.summary["magnitude_top1"] == result.summary["magnitude_top1"]
    assert again.summary["jackpot_top1"] > result.summary["jackpot_top1"] + 50


def test_two_runs_without_output_get_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {search_jackpot(SearchConfig(steps=0)).summary["artifact"] for _ in range(2)}
    assert len(folders) == 2
    assert all(from_pretrained(folder) is not None for folder in folders)


def test_a_folder_with_somebodys_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "notes.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(ArtifactError, match=r"holds notes\.txt, which is not part of a jackpot"):
            _search(tmp_path / "results", steps=0, overwrite=overwrite)
    assert (tmp_path / "results" / "notes.txt").read_text() == "precious"


def test_a_new_head_and_a_masked_classifier_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        _search(tmp_path / "x", mask_classifier=True, num_classes=7, dataset="digits")
    assert list(tmp_path.iterdir()) == []


def test_model_arguments_of_a_folder_are_recorded_and_restored(tmp_path: Path) -> None:
    import json

    from safetensors.torch import save_file

    from timm_jackpot import load_base

    base = tmp_path / "base"
    base.mkdir()
    save_file(load_base("digits_resnet").model.state_dict(), base / "model.safetensors")
    described = {"num_classes": 10, "input_size": [3, 32, 32], "first_conv": "conv1.0", "classifier": "fc"}
    config = {"architecture": "digits_resnet", "pretrained_cfg": described, "model_args": {"act_layer": "gelu"}}
    (base / "config.json").write_text(json.dumps(config))
    result = _search(tmp_path / "j", steps=0, sparsity="0", model=f"local-dir:{base}", dataset="digits")
    loaded = from_pretrained(tmp_path / "j", base_checkpoint=base / "model.safetensors")
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(images), result.model(images))
    assert str(tmp_path) not in (tmp_path / "j" / "config.json").read_text()
    (base / "config.json").write_text(json.dumps({**config, "model_args": {"layers": [1, 1, 1, 1]}}))
    with pytest.raises(BaseError, match="'layers', which an artifact cannot store"):
        _search(tmp_path / "k", steps=0, model=f"local-dir:{base}", dataset="digits")


def test_masks_are_in_force_by_the_end_of_the_ramp_whatever_the_interval(tmp_path: Path) -> None:
    _search(tmp_path / "r", refresh_interval=1000, steps=21)
    steps = list(read_record(tmp_path / "r" / "record.jsonl").of("step"))
    assert steps[0]["sparsity"] == 0
    assert steps[-1]["step"] == 20
    assert steps[-1]["sparsity"] == pytest.approx(0.9, abs=1e-4)


def test_the_magnitude_control_is_magnitude_whatever_the_criterion(run, tmp_path: Path) -> None:
    result = _search(tmp_path / "m", steps=0, criterion="random", seed=5)
    assert result.summary["magnitude_top1"] == run.summary["magnitude_top1"]
    assert result.summary["jackpot_top1"] != result.summary["magnitude_top1"]


def test_an_explicit_output_that_holds_a_jackpot_is_refused_unless_overwrite(run, tmp_path: Path) -> None:
    folder = tmp_path / "o"
    _search(folder, steps=0)
    before = (folder / "masks.safetensors").read_bytes()
    with pytest.raises(ArtifactError, match="already holds a jackpot"):
        _search(folder, steps=0, sparsity="0.5")
    assert (folder / "masks.safetensors").read_bytes() == before
    _search(folder, steps=0, sparsity="0.5", overwrite=True)
    assert read_artifact(folder).config.sparsity.requested == "0.5"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"steps": 3, "epochs": 1}, ConfigError, "not both"),
        ({"model": "resnet5o"}, BaseError, "did you mean resnet50"),
        ({"data_dir": "nowhere"}, DataError, "nowhere does not exist"),
        ({"dataset": "digits", "batch_size": 5000}, ConfigError, "too few images for one step"),
        ({"base_checkpoint": "x.safetensors"}, BaseError, "does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, settings: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _search(tmp_path / "bad", **{"steps": None, **settings} if "epochs" not in settings else settings)
    assert list(tmp_path.iterdir()) == []


def test_scores_that_overflow_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the scores have become NaN: lower --lr"):
        # Beyond the flag's bound: what a long run comes to, in one step.
        search_jackpot(
            SearchConfig(steps=12, batch_size=64, output=str(tmp_path / "nan")).model_copy(update={"lr": 1e38})
        )


@pytest.mark.parametrize("allocation", ["erk", "2:4"])
def test_one_score_that_is_no_number_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allocation: str
) -> None:
    def poison(optimizer: torch.optim.Optimizer, scores: list[torch.nn.Parameter], max_rms: float) -> None:
        optimizer.register_step_post_hook(lambda *_: scores[0].data.view(-1)[7].fill_(torch.nan))

    monkeypatch.setattr("timm_jackpot.methods.find.equalise_gradients", poison)
    with pytest.raises(TrainingError, match="the scores have become NaN: lower --lr"):
        _search(tmp_path / "nan", steps=1, allocation=allocation)
    assert not list(tmp_path.rglob("masks.safetensors"))


@pytest.mark.parametrize("max_rms", [inf, 0.1])
def test_equalised_gradients_have_one_rms_and_keep_their_direction(max_rms: float) -> None:
    scores = [torch.nn.Parameter(torch.zeros(n)) for n in (4, 5, 6)]
    optimizer = torch.optim.SGD(scores, lr=1.0)
    equalise_gradients(optimizer, scores, max_rms=max_rms)
    gradients = [torch.randn(4) * 1e-3, torch.randn(5) * 10, torch.zeros(6)]
    for parameter, gradient in zip(scores, gradients, strict=True):
        parameter.grad = gradient.clone()
    optimizer.step()
    rms = [g.square().mean().sqrt() for g in gradients]
    for parameter, gradient, size in zip(scores[:2], gradients[:2], rms[:2], strict=True):
        torch.testing.assert_close(-parameter.data, gradient / size * min(sum(rms) / 3, max_rms))
    assert not scores[2].any()  # a layer without gradient stays where it is


def test_initial_scores() -> None:
    criterion = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([0.0, 1.0, 1.0])}
    proportional = proportional_scores(criterion, 0.02)
    assert proportional["a"].square().mean().sqrt().item() == pytest.approx(0.02)
    assert torch.equal(proportional["a"].argsort(), criterion["a"].argsort())
    masks = MaskSet({name: keep_largest(values, 1) for name, values in criterion.items()})
    levels = two_level_scores(masks, 0.95)
    assert levels["a"].tolist() == pytest.approx([0.95, 1.0])
    assert levels["b"].tolist() == pytest.approx([0.95, 1.0, 0.95])  # ties by position


def test_a_transformer_that_pretrain_saved_is_searched(tmp_path: Path) -> None:
    """timm writes its image size as a list."""
    flags = {"dataset": "digits", "steps": 2, "batch_size": 32}
    pretrain_base(PretrainConfig(model="test_vit", num_classes=10, img_size=32, output=str(tmp_path / "base"), **flags))  # pyright: ignore
    result = search_jackpot(SearchConfig(model=f"local-dir:{tmp_path / 'base'}", output=str(tmp_path / "j"), **flags))  # pyright: ignore
    assert result.jackpot.base.ref.img_size == 32
    assert result.jackpot.extras == {}
    assert from_pretrained(tmp_path / "j", base_checkpoint=tmp_path / "base" / "model.safetensors") is not None
