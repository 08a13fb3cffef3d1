"""Single images through a model, with class names."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import nn

from timm_jackpot import JackpotConfig, JackpotModel, from_pretrained, get_jackpot_model, predict
from timm_jackpot.data.digits import digits_split
from timm_jackpot.errors import ConfigError, DataError
from timm_jackpot.evaluation.images import class_names

NAMES = ("zero", "one", "two")


@pytest.fixture(scope="module")
def named_jackpot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A digits jackpot with a new head of three named classes."""
    net = timm.create_model("digits_resnet", pretrained=True)
    net.fc = nn.Linear(net.num_features, 3)  # pyright: ignore
    model = get_jackpot_model(net, JackpotConfig(sparsity=0.5, class_names=NAMES))
    return model.save_pretrained(tmp_path_factory.mktemp("named") / "jackpot")


def digit_images(n: int) -> tuple[list[Image.Image], list[int]]:
    images, labels = digits_split("test")
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images[:n]], labels[:n].tolist()


def test_the_most_likely_classes_of_images_paths_and_batches(tmp_path: Path) -> None:
    model = timm.create_model("digits_resnet", pretrained=True).train()
    model.bn1.eval()  # pyright: ignore
    images, labels = digit_images(40)
    answers = predict(model, images, k=3)
    assert model.training
    assert not model.bn1.training  # pyright: ignore
    assert sum(answer[0].class_id == label for answer, label in zip(answers, labels, strict=True)) >= 38
    assert all(len(answer) == 3 and answer[0].probability >= answer[1].probability for answer in answers)
    images[0].save(tmp_path / "digit.png")
    assert predict(model, [str(tmp_path / "digit.png")], k=1)[0][0].class_id == labels[0]
    batch = torch.rand(2, 3, 32, 32)
    assert [answer[0].class_id for answer in predict(model, batch)] == model.eval()(batch).argmax(1).tolist()
    assert predict(model, []) == []


def test_class_names_come_from_the_artifact_or_imagenet(named_jackpot: Path) -> None:
    model = from_pretrained(named_jackpot)
    assert class_names(model) == dict(enumerate(NAMES))
    assert predict(model, digit_images(1)[0])[0][0].name in NAMES
    serving = JackpotModel.from_pretrained(named_jackpot, adapter_name="named")
    assert class_names(serving) == dict(enumerate(NAMES))
    assert class_names(timm.create_model("resnet18", num_classes=1000))[1].startswith("goldfish")
    assert class_names(timm.create_model("resnet18", num_classes=7)) == {}


def test_what_is_no_image_is_one_sentence(named_jackpot: Path, tmp_path: Path) -> None:
    model = from_pretrained(named_jackpot)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png cannot be classified: it is not a readable image"):
        predict(model, [tmp_path / "broken.png"])
    with pytest.raises(DataError, match="there is no such file"):
        predict(model, ["nowhere.png"])
    with pytest.raises(ConfigError, match="at least one class"):
        predict(model, [], k=0)
