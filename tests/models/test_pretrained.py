"""Pretrained weights: fetched once, converted to features equal to the original code's, loaded whole or refused."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from http_server import serving_files
from torch.nn.functional import interpolate, layer_norm
from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin

from landseg.contracts.dataset import ClassSchema
from landseg.contracts.errors import ConfigError, ContractError, ObjectNotFoundError, StorageError
from landseg.models.build import build_model
from landseg.models.configs import load_config
from landseg.models.weights.conversion import extend_input
from landseg.models.weights.pretrained import fetch, find_source, without_pretrained
from landseg.models.weights.pretrained_loading import load_pretrained

STOCK = Path(__import__("mmcv").__file__).parents[1] / "mmseg" / ".mim" / "configs"
RGB = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))


def schema(num_classes: int = 9, bands: int = 3) -> ClassSchema:
    names = tuple(f"class{i}" for i in range(num_classes))
    return ClassSchema(classes=names, palette=((0, 0, 0),) * num_classes, bands=tuple(range(1, bands + 1)))


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.add_(torch.rand_like(buffer))
    module.eval()
    return module


# --- official Swin


def official_swin(window: int = 8, depths: Sequence[int] = (2, 2)) -> tuple[TorchvisionSwin, dict[str, torch.Tensor]]:
    """torchvision's Swin, which computes what the official code does, and its weights under the official names."""
    heads = [3 << stage for stage in range(len(depths))]
    model = TorchvisionSwin([4, 4], 48, list(depths), heads, [window, window], stochastic_depth_prob=0.0, num_classes=7)
    names = (
        (r"^features\.0\.0\.", "patch_embed.proj."),
        (r"^features\.0\.2\.", "patch_embed.norm."),
        (r"^features\.(\d+)\.(\d+)\.", lambda m: f"layers.{int(m[1]) // 2}.blocks.{m[2]}."),
        (r"^features\.(\d+)\.(?=norm|reduction)", lambda m: f"layers.{int(m[1]) // 2 - 1}.downsample."),
        (r"\.mlp\.0\.", ".mlp.fc1."),
        (r"\.mlp\.3\.", ".mlp.fc2."),
    )
    randomise(model)
    state = {}
    for key, value in model.state_dict().items():
        for pattern, name in names:
            key = re.sub(pattern, name, key)
        state[key] = value
    state["layers.1.blocks.0.attn_mask"] = torch.zeros(4, 16, 16)
    assert "layers.1.blocks.0.attn.relative_position_index" in state
    assert "layers.0.downsample.reduction.weight" in state
    return model, state


def stage_features(model: TorchvisionSwin, images: torch.Tensor) -> list[torch.Tensor]:
    first = model.features[1](model.features[0](images))
    second = model.features[3](model.features[2](first))
    # Behind each stage mmseg has a norm that no classification checkpoint holds: it starts as plain normalisation.
    return [layer_norm(x, x.shape[-1:]).permute(0, 3, 1, 2) for x in (first, second)]


@pytest.mark.parametrize("timm", [False, True])
def test_features_of_official_swin(timm: bool, tmp_path: Path) -> None:
    original, state = official_swin()
    if timm:  # newer releases merge patches at the beginning of a stage
        state = {key.replace("layers.0.downsample.", "layers.1.downsample."): value for key, value in state.items()}
    torch.save({"model": state}, tmp_path / "swin_tiny_official.pth")
    model: Any = build_model(load_config("swin_tiny"), schema()).eval()
    report = load_pretrained(model, tmp_path / "swin_tiny_official.pth")
    assert set(report.new) == {"norm0.weight", "norm0.bias", "norm1.weight", "norm1.bias"}
    assert set(report.unused) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert "converted from official Swin" in str(report)
    with torch.no_grad():
        for expected, found in zip(stage_features(original, RGB), model.backbone(RGB), strict=True):
            assert (expected - found).abs().max() < 1e-5


def test_an_official_swin_of_four_stages(tmp_path: Path) -> None:
    """Its blocks have a norm1 and a norm2 each, as mmseg's Swin of three stages or more has behind its stages."""
    _, state = official_swin(depths=(1, 1, 1, 1))
    torch.save({"model": state}, tmp_path / "swin.pth")
    config = load_config("swin_tiny")
    config.model.backbone.update(depths=[1] * 4, num_heads=[3, 6, 12, 24], strides=(4, 2, 2, 2), out_indices=range(4))
    model = build_model(config, schema())
    report = load_pretrained(model, tmp_path / "swin.pth")
    assert {key.partition(".")[0] for key in report.new} == {"norm0", "norm1", "norm2", "norm3"}
    assert set(report.unused) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}


def test_position_tables_of_another_window_size(tmp_path: Path) -> None:
    _, state = official_swin(window=4)
    torch.save({"model": state}, tmp_path / "swin.pth")
    model: Any = build_model(load_config("swin_tiny"), schema())
    report = load_pretrained(model, tmp_path / "swin.pth")
    assert "position tables interpolated" in str(report)
    table = state["layers.1.blocks.0.attn.relative_position_bias_table"]
    resized = interpolate(table.T.reshape(1, 6, 7, 7), size=(15, 15), mode="bicubic", align_corners=False)
    found = model.backbone.stages[1].blocks[0].attn.w_msa.relative_position_bias_table
    assert torch.allclose(found, resized.reshape(6, 225).T)


@pytest.mark.slow
def test_the_recipes_swin_takes_the_official_checkpoints_layout(tmp_path: Path) -> None:
    original = TorchvisionSwin([4, 4], 128, [2, 2, 18, 2], [4, 8, 16, 32], [12, 12], num_classes=21841)
    model: Any = build_model(load_config("swin"), schema()).eval()
    names = {
        "features.0.0.": "patch_embed.proj.",
        "features.0.2.": "patch_embed.norm.",
        ".mlp.0.": ".mlp.fc1.",
        ".mlp.3.": ".mlp.fc2.",
    }
    state = {}
    for key, value in original.state_dict().items():
        for theirs, official in names.items():
            key = key.replace(theirs, official)
        key = re.sub(r"^features\.(\d+)\.(\d+)\.", lambda m: f"layers.{int(m[1]) // 2}.blocks.{m[2]}.", key)
        key = re.sub(r"^features\.(\d+)\.", lambda m: f"layers.{int(m[1]) // 2 - 1}.downsample.", key)
        state[key] = value
    torch.save({"model": state}, tmp_path / "swin.pth")
    report = load_pretrained(model, tmp_path / "swin.pth")
    assert {key.partition(".")[0] for key in report.new} == {"norm0", "norm1", "norm2", "norm3"}
    assert report.loaded == 325


# --- mmcls ResNeSt


@pytest.mark.filterwarnings("ignore")
def test_features_of_mmcls_resnest(tmp_path: Path) -> None:
    from mmcls.models.backbones import ResNeSt

    common = {"depth": 50, "num_stages": 2, "stem_channels": 32, "base_channels": 24, "out_indices": (0, 1)}
    original = randomise(ResNeSt(**common, strides=(1, 2), dilations=(1, 1)))
    state = {f"backbone.{key}": value for key, value in original.state_dict().items()}
    assert "backbone.stem.2.conv.weight" in state
    torch.save({"state_dict": {**state, "head.fc.weight": torch.zeros(10, 2048)}}, tmp_path / "resnest.pth")
    model: Any = build_model(load_config("resnest_tiny"), schema()).eval()
    report = load_pretrained(model, tmp_path / "resnest.pth")
    assert report.new == ()
    assert report.unused == ("head.fc.weight",)
    with torch.no_grad():
        for expected, found in zip(original(RGB), model.backbone(RGB), strict=True):
            assert (expected - found).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.filterwarnings("ignore")
def test_the_recipes_resnest_takes_mmcls_checkpoints() -> None:
    from mmcls.models.backbones import ResNeSt

    from landseg.models.weights.conversion import convert_mmcls_resnet

    theirs = ResNeSt(depth=101, stem_channels=128, radix=2, reduction_factor=4, avg_down_stride=True).state_dict()
    ours = build_model(load_config("resnest"), schema()).state_dict()
    shapes = {f"backbone.{key}": value.shape for key, value in convert_mmcls_resnet(theirs).items()}
    assert shapes == {key: value.shape for key, value in ours.items() if key.startswith("backbone.")}


def test_mmsegs_own_names_load_as_they_are(tmp_path: Path) -> None:
    source, target = (build_model(load_config("resnest_tiny"), schema()) for _ in range(2))
    torch.save(source.backbone.state_dict(), tmp_path / "bare.pth")  # type: ignore[union-attr]
    report = load_pretrained(target, tmp_path / "bare.pth")
    assert (report.new, report.unused, report.notes) == ((), (), ())
    assert torch.equal(source.backbone.stem[0].weight, target.backbone.stem[0].weight)  # type: ignore[union-attr, index]


def test_a_backbone_inside_a_backbone_is_loaded(tmp_path: Path) -> None:
    name = "bisenetv1_r18-d32_in1k-pre_4x4_1024x1024_160k_cityscapes"
    config = load_config(name)
    assert find_source(config, "") == "open-mmlab://resnet18_v1c"
    assert find_source(without_pretrained(config), "") is None
    model: Any = build_model(without_pretrained(config), schema())
    inner = model.backbone.context_path.backbone
    state = {key: torch.rand_like(value, dtype=torch.float32) for key, value in inner.state_dict().items()}
    torch.save({**state, "fc.weight": torch.zeros(1000, 512)}, tmp_path / "resnet18.pth")
    report = load_pretrained(model, tmp_path / "resnet18.pth")
    assert (report.new, report.unused) == ((), ("fc.weight",))
    assert torch.equal(inner.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


def test_parts_beside_the_backbones_own_are_a_classifiers(tmp_path: Path) -> None:
    model: Any = build_model(without_pretrained(load_config("fcn_hr18s_512x512_20k_voc12aug")), schema())
    state = dict(model.backbone.state_dict())
    classifier = {"incre_modules.0.0.conv1.weight": torch.zeros(1), "classifier.bias": torch.zeros(1)}
    torch.save({**state, **classifier}, tmp_path / "hrnet.pth")
    assert load_pretrained(model, tmp_path / "hrnet.pth").unused == tuple(classifier)
    torch.save({**state, "stage4.9.branches.0.0.conv1.weight": torch.zeros(1)}, tmp_path / "deeper.pth")
    with pytest.raises(ContractError, match=r"1 unexpected: stage4\.9"):
        load_pretrained(model, tmp_path / "deeper.pth")


def test_vits_positions_of_another_image_size(tmp_path: Path) -> None:
    options = {"model.backbone.num_layers": 2, "model.backbone.out_indices": [0, 0, 1, 1]}
    config = without_pretrained(load_config("upernet_vit-b16_ln_mln_512x512_160k_ade20k", options))
    model: Any = build_model(config, schema())
    state = dict(model.backbone.state_dict())
    state["pos_embed"] = torch.rand(1, 1 + 14 * 14, 768)  # 224 px
    torch.save(state, tmp_path / "vit.pth")
    assert "position embedding interpolated" in str(load_pretrained(model, tmp_path / "vit.pth"))
    assert torch.equal(model.backbone.pos_embed[:, 0], state["pos_embed"][:, 0])


# --- bands, heads, refusals


@pytest.mark.parametrize("name", ["swin_tiny", "resnest_tiny"])
@pytest.mark.parametrize("bands", [1, 2, 4, 8])
def test_other_numbers_of_bands(name: str, bands: int, tmp_path: Path) -> None:
    rgb = build_model(load_config(name), schema())
    torch.save({"state_dict": rgb.state_dict()}, tmp_path / "rgb.pth")
    model = build_model(load_config(name), schema(bands=bands))
    assert f"extended from 3 to {bands} bands" in str(load_pretrained(model, tmp_path / "rgb.pth"))


def test_the_extended_convolution_responds_as_to_rgb() -> None:
    weight = torch.randn(8, 3, 4, 4)
    extended = extend_input(weight, 5)
    grey = torch.rand(1, 1, 4, 4)
    assert torch.allclose((extended * grey).sum((1, 2, 3)), (weight * grey).sum((1, 2, 3)), atol=1e-5)
    assert torch.allclose(extended[:, :3], weight * 0.6)
    assert torch.allclose(extended[:, 3], weight.mean(1) * 0.6)
    assert torch.allclose(extend_input(weight, 1)[:, 0], weight.sum(1), atol=1e-6)
    assert torch.allclose(extend_input(weight, 3), weight)


def test_weights_of_a_training_that_diverged_are_refused(tmp_path: Path) -> None:
    model: Any = build_model(load_config("swin_tiny"), schema())
    state = {key: value.clone() for key, value in model.state_dict().items()}
    state["decode_head.bottleneck.conv.weight"][0, 0, 0, 0] = torch.nan
    torch.save({"state_dict": state}, tmp_path / "swin.pth")
    with pytest.raises(ContractError, match=r"found others in decode_head\.bottleneck\.conv\.weight \("):
        load_pretrained(model, tmp_path / "swin.pth")


def test_a_segmentation_model_of_other_classes_gives_all_but_its_last_layers(tmp_path: Path) -> None:
    source = build_model(load_config("swin_tiny"), schema(150))
    torch.save({"state_dict": source.state_dict()}, tmp_path / "ade.pth")
    model: Any = build_model(load_config("swin_tiny"), schema(9))
    report = load_pretrained(model, tmp_path / "ade.pth")
    last = {f"{head}.conv_seg.{kind}" for head in ("decode_head", "auxiliary_head") for kind in ("weight", "bias")}
    assert set(report.new) == set(report.unused) == last
    assert torch.equal(model.decode_head.bottleneck.conv.weight, source.decode_head.bottleneck.conv.weight)  # type: ignore[union-attr, index]


def test_another_head_is_of_no_use_not_even_in_part(tmp_path: Path) -> None:
    source = build_model(load_config("swin_tiny", {"model.decode_head.channels": 32}), schema())
    torch.save({"state_dict": source.state_dict()}, tmp_path / "other.pth")
    report = load_pretrained(build_model(load_config("swin_tiny"), schema()), tmp_path / "other.pth")
    assert {key.partition(".")[0] for key in report.unused} == {"decode_head"}
    assert len(report.unused) == sum(key.startswith("decode_head.") for key in source.state_dict())


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"model.backbone.depths": [2, 4]}, r"unexpected: stages\.1\.blocks\.2"),
        ({"model.backbone.depths": [1, 2]}, r"missing: stages\.0\.blocks\.1"),
        ({"model.backbone.embed_dims": 24, "model.decode_head.in_channels": [24, 48]}, "of another shape: patch_embed"),
        ({"model.backbone.num_heads": [6, 12]}, "of another shape: .*relative_position_bias_table"),
    ],
)
def test_another_architecture_is_refused_and_nothing_is_loaded(
    options: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    options = {**options, "model.auxiliary_head.in_channels": 2 * options.get("model.backbone.embed_dims", 48)}
    torch.save(build_model(load_config("swin_tiny", options), schema()).state_dict(), tmp_path / "other.pth")
    model = build_model(load_config("swin_tiny"), schema())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ContractError, match=f"found .*{problem}.*nothing was loaded"):
        load_pretrained(model, tmp_path / "other.pth")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_cnn_into_a_transformer_is_refused(tmp_path: Path) -> None:
    torch.save(build_model(load_config("resnest_tiny"), schema()).state_dict(), tmp_path / "cnn.pth")
    with pytest.raises(ContractError, match=r"\d+ missing: .*\d+ unexpected: "):
        load_pretrained(build_model(load_config("swin_tiny"), schema()), tmp_path / "cnn.pth")


# --- where weights come from


@pytest.fixture
def asked() -> list[str]:
    """The paths that the server was asked for."""
    return []


@pytest.fixture
def server(tmp_path: Path, asked: list[str]) -> Iterator[str]:
    (tmp_path / "www").mkdir()
    with serving_files(tmp_path / "www", asked) as address:
        yield address


_SAVED = io.BytesIO()
torch.save({"state_dict": {"a": torch.arange(1000)}}, _SAVED)
DATA = _SAVED.getvalue()
SHA256 = hashlib.sha256(DATA).hexdigest()


def test_a_download_is_kept_in_object_storage(server: str, asked: list[str], tmp_path: Path) -> None:
    (tmp_path / "www" / "w.pth").write_bytes(DATA)
    store = str(tmp_path / "store")
    first = fetch(f"{server}/w.pth", store, tmp_path / "a")
    again = fetch(f"{server}/w.pth#sha256={SHA256}", store, tmp_path / "b")
    assert first.sha256 == again.sha256 == SHA256
    assert again.path.read_bytes() == DATA
    assert len(asked) == 1


def test_signatures_of_presigned_addresses_are_kept_nowhere(server: str, asked: list[str], tmp_path: Path) -> None:
    (tmp_path / "www" / "w.pth").write_bytes(DATA)
    store = tmp_path / "store"
    first = fetch(f"{server}/w.pth?versionId=3&X-Amz-Signature=sEcr3t1", str(store), tmp_path / "a")
    assert first.uri == f"{server}/w.pth?versionId=***&X-Amz-Signature=***"
    fetch(f"{server}/w.pth?versionId=3&X-Amz-Signature=sEcr3t2", str(store), tmp_path / "b")
    assert len(asked) == 1, "signed anew, it is the same file"
    fetch(f"{server}/w.pth?versionId=4&X-Amz-Signature=sEcr3t2", str(store), tmp_path / "c")
    assert len(asked) == 2
    kept = [path.read_bytes() + str(path).encode() for path in store.rglob("*") if path.is_file()]
    assert not [content for content in kept if b"sEcr3t" in content]
    for address in (f"{server}/absent.pth?X-Amz-Signature=sEcr3t", "http://me:sEcr3t@127.0.0.1:9/w.pth"):
        with pytest.raises(StorageError) as caught:
            fetch(address, str(store), tmp_path / "d")
        assert "sEcr3t" not in str(caught.value)


def test_a_damaged_cache_is_fetched_anew(server: str, asked: list[str], tmp_path: Path) -> None:
    (tmp_path / "www" / "w.pth").write_bytes(DATA)
    store = tmp_path / "store"
    fetch(f"{server}/w.pth", str(store), tmp_path / "a")
    cached = next(path for path in (store / "pretrained").iterdir() if path.suffix == ".pth")
    cached.write_bytes(b"x" + DATA[1:])
    assert fetch(f"{server}/w.pth", str(store), tmp_path / "b").path.read_bytes() == DATA
    assert cached.read_bytes() == DATA
    assert len(asked) == 2


def test_what_is_not_a_checkpoint_is_not_kept(server: str, tmp_path: Path) -> None:
    (tmp_path / "www" / "role").write_text('{"SecretAccessKey": "METASECRET"}')
    with pytest.raises(ContractError, match="expected a checkpoint"):
        fetch(f"{server}/role", str(tmp_path / "store"), tmp_path / "a")
    assert not (tmp_path / "store").exists()


def test_a_file_that_was_not_meant_is_refused(server: str, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    for name in ("w.pth", "resnest-032caa52.pth"):
        (tmp_path / "www" / name).write_bytes(DATA)
    with pytest.raises(StorageError, match="expected a file with sha256 0000"):
        fetch(f"{server}/w.pth#sha256={'0' * 64}", store, tmp_path)
    with pytest.raises(StorageError, match="expected a file with sha256 032caa52"):
        fetch(f"{server}/resnest-032caa52.pth", store, tmp_path)
    with pytest.raises(StorageError, match=r"absent\.pth: no such file \(give another\)"):
        fetch(str(tmp_path / "absent.pth"), store, tmp_path, "give another")
    with pytest.raises(ConfigError, match="expected URI#sha256="):
        fetch(f"{server}/w.pth#md5=1", store, tmp_path)
    with pytest.raises(ObjectNotFoundError, match="there is no such file"):
        fetch(f"{server}/absent.pth", store, tmp_path)
    assert not (tmp_path / "store").exists()


def test_paths_and_object_storage_are_read_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(DATA)
    fetched = fetch(f"{tmp_path}/w.pth#sha256={SHA256}", str(tmp_path / "store"), tmp_path / "local")
    assert fetched.path.read_bytes() == DATA
    assert not (tmp_path / "store").exists()
    with pytest.raises(ObjectNotFoundError):
        fetch(f"{tmp_path}/absent.pth", str(tmp_path / "store"), tmp_path / "local")


def test_names_of_mmcvs_model_zoo(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no 'resnest999'"):
        fetch("open-mmlab://resnest999", str(tmp_path), tmp_path)


def test_what_a_config_starts_from() -> None:
    swin = load_config("swin")
    assert find_source(swin, "") == swin.pretrained
    assert find_source(swin, "none") is None
    assert find_source(swin, "s3://bucket/w.pth") == "s3://bucket/w.pth"
    assert find_source(load_config("swin_tiny"), "") is None
    stock = load_config(str(STOCK / "pspnet" / "pspnet_r50-d8_512x512_20k_voc12aug.py"))
    assert find_source(stock, "") == "open-mmlab://resnet50_v1c"
    assert find_source(without_pretrained(stock), "") is None
    name = "upernet_swin_tiny_patch4_window7_512x512_160k_ade20k_pretrain_224x224_1K.py"
    stock = load_config(str(STOCK / "swin" / name))
    assert str(find_source(stock, "")).endswith("swin_tiny_patch4_window7_224_20220317-1cdeb081.pth")
    assert find_source(without_pretrained(stock), "") is None


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (["patch_embed1.proj.weight", "block1.0.attn.q.weight"], "mit2mmseg.py"),
        (["downsample_layers.0.0.weight", "stages.0.0.dwconv.weight"], "convnext_to_mmcls.py"),
        (["stem.0.weight", "stages.0.blocks.0.conv_dw.weight"], "convnext_to_mmcls.py"),
        (["cls_token", "blocks.0.attn.q_bias", "blocks.0.attn.qkv.weight"], "beit2mmseg.py"),
        (["cls_token", "blocks.0.attn.qkv.weight"], "vit2mmseg.py"),
        (["swin.encoder.layers.0.blocks.0.attention.self.query.weight"], "Face's transformers: give the checkpoint"),
        (["convnext.encoder.stages.0.layers.0.dwconv.weight"], "Face's transformers: give the checkpoint"),
        (["features.0.0.weight", "features.1.0.attn.qkv.weight"], "torchvision: give the checkpoint"),
    ],
)
def test_names_of_other_code_are_refused_with_their_converter(names: list[str], advice: str, tmp_path: Path) -> None:
    torch.save({name: torch.zeros(2) for name in names}, tmp_path / "foreign.pth")
    model = build_model(load_config("swin_tiny"), schema())
    with pytest.raises(ContractError, match=f"nothing was loaded; these are names of .*{advice}"):
        load_pretrained(model, tmp_path / "foreign.pth")
