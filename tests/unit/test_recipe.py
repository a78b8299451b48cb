"""Recipe files: what they say, and refusals that name file, line and what is allowed."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corepress.domain.errors import UnsupportedRecipe
from corepress.domain.recipe import Compression, Recipe
from corepress.recipes import built_in_names, load_recipe, parse_recipe
from corepress.recipes.layer_bits import LayerBits

EXAMPLE = """\
# For the GPU of a Mac
name: mac-gpu-768x512
attention: original
sizes: [[768, 512]]
batch: 2
components: [unet, vae_decoder]
precision: {default: float16, vae_decoder: auto}
compression:
  unet: {palettize: 6}
  vae_decoder: {linear: 8}
  text_encoder: {mixed: bits.yaml}
chunks: 1
deployment_target: iOS17
min_psnr_db: {float16: 60, float32: 100.5}
"""


def refusal(text: str) -> str:
    with pytest.raises(UnsupportedRecipe) as refused:
        parse_recipe(text, "mine.yaml")
    assert refused.value.path == "mine.yaml"
    return refused.value.message


def test_every_key() -> None:
    assert parse_recipe(EXAMPLE, "mine.yaml") == Recipe(
        name="mac-gpu-768x512",
        sizes=[(768, 512)],
        components=["unet", "vae_decoder"],
        precision={"default": "float16", "vae_decoder": "auto"},
        compression={
            "unet": Compression(palettize=6),
            "vae_decoder": Compression(linear=8),
            "text_encoder": Compression(mixed="bits.yaml"),
        },
        min_psnr_db={"float16": 60, "float32": 100.5},
    )


def test_a_name_is_enough() -> None:
    recipe = parse_recipe("name: plain", "mine.yaml")
    assert recipe == Recipe("plain")
    assert recipe.precision_of("unet", overflows_float16=False) == "float16"
    assert recipe.precision_of("vae_decoder", overflows_float16=True) == "float32"
    assert (recipe.threshold_db("float16"), recipe.threshold_db("float32")) == (60, 100)


def test_built_in_recipes_can_be_built() -> None:
    assert "original" in built_in_names()
    for name in built_in_names():
        recipe = load_recipe(name)
        assert recipe.name == name
        recipe.refuse_unbuildable()


def test_precision_stated_for_a_component_wins() -> None:
    recipe = parse_recipe("name: a\nprecision: {default: float32, unet: float16}", "a.yaml")
    assert recipe.precision_of("unet", overflows_float16=True) == "float16"
    assert recipe.precision_of("vae_decoder", overflows_float16=False) == "float32"


def test_build_names() -> None:
    assert parse_recipe("name: a", "a").build_names() == {"a": None}
    assert parse_recipe("name: a\nsizes: [[768, 512]]", "a").build_names() == {"a": (768, 512)}
    assert parse_recipe("name: a\nsizes: [[768, 512], [64, 64]]", "a").build_names() == {
        "a-768x512": (768, 512),
        "a-64x64": (64, 64),
    }


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("batch: 2", 1, "name: missing"),
        ("name: a\n\nresolution: 512\n", 3, "resolution: no such key"),
        ("name: a\nattention: flash", 2, "'original', 'split_einsum' or 'split_einsum_v2'"),
        ("name: a\nbatch: 3", 2, "1 or 2"),
        ("name: a\nbatch: [1]", 2, "1 or 2"),
        ("name: a\nchunks: three", 2, "1 or 2"),
        ("name: a\nsizes: huge", 2, "'native'"),
        ("name: a\nsizes:\n- [512, 512]\n- [768]", 4, "sizes.1"),
        ("name: a\nsizes:\n- [512, 512.5]", 3, "integer"),
        ("name: a\nsizes:\n- ['512', 512]", 3, "integer"),
        ("name: a\nsizes:\n- [512, 512]\n- [0, 512]", 4, "positive"),
        ("name: a\nsizes:\n- [512, 512]\n- [512, 512]", 4, "twice"),
        ("name: a\nsizes: []", 2, "at least one"),
        ("name: a\ncomponents: []", 2, "at least one"),
        ("name: a\ncomponents:\n- unet\n- unett", 4, "'vae_decoder'"),
        ("name: a\nprecision: {unet: float8}", 2, "'float16', 'float32' or 'auto'"),
        ("name: a\nprecision:\n  vae: auto", 3, "'vae_decoder'"),
        ("name: a\ncompression:\n  vae: {linear: 8}", 3, "'vae_decoder'"),
        ("name: a\ncompression:\n  unet:\n    palettize: 5", 4, "1, 2, 3, 4, 6 or 8"),
        ("name: a\ncompression:\n  unet:\n    palettize: 6.5", 4, "1, 2, 3, 4, 6 or 8"),
        ("name: a\ncompression:\n  unet:\n    linear: 5", 4, "4 or 8"),
        ("name: a\ncompression:\n  unet:\n    layers: {a: 5}", 4, "8 or 16"),
        ("name: a\ncompression:\n  unet: {palettize: 4, group_size: 0}", 3, "a positive number"),
        ("name: a\ncompression:\n  unet:\n    palettize: 3", 4, "iOS18, macOS15 or newer"),
        ("name: a\ncompression:\n  unet:\n    linear: 4", 4, "iOS18, macOS15 or newer"),
        ("name: a\ncompression:\n  unet:\n    layers: {a: 3}", 4, "iOS18, macOS15 or newer"),
        (
            "name: a\ndeployment_target: macOS14\n"
            "compression:\n  unet:\n    palettize: 6\n    group_size: 16",
            6,
            "iOS18, macOS15 or newer",
        ),
        ("name: a\ncompression:\n  unet:\n    mixed: 4", 4, "string"),
        ("name: a\ncompression:\n  unet:\n    gzip: 9", 4, "gzip: no such key"),
        ("name: a\ncompression:\n  unet: {}", 3, "give one of palettize"),
        ("name: a\ncompression:\n  unet: {palettize: 6, linear: 8}", 3, "give one of palettize"),
        ("name: a\ncompression:\n  unet: 6", 3, "compression.unet"),
        ("name: a\ndeployment_target: iOS15", 2, "'iOS16'"),
        ("name: a\nmin_psnr_db: {float16: .nan}", 2, "finite"),
        ("name: a\nmin_psnr_db: {float16: .inf}", 2, "finite"),
        ("name: a\nmin_psnr_db: {float16: '60'}", 2, "number"),
        ("name: a\nmin_psnr_db: {int8: 60}", 2, "'float16' or 'float32'"),
        ("name: A/b", 1, "a-z, 0-9"),
        ("name: ''", 1, "a-z, 0-9"),
        ("name: ..", 1, "a-z, 0-9"),
        ("name: a\nbatch: 1\nbatch: 2", 3, "'batch' stands there twice"),
        ("name: a\nprecision:\n  unet: auto\n  unet: float32", 4, "twice"),
        ("name: a\nsizes: [[512", 2, "not YAML"),
        ("name: a\nbatch: !!int one", 2, "'one' is no int"),
        ("name: a\nsizes:\n- !!bool maybe", 3, "'maybe' is no bool"),
        ("name: a\nbatch: !!timestamp soon", 2, "'soon' is no timestamp"),
        ("- name: a", 1, "a mapping"),
        ("", 1, "a mapping"),
        ("just words", 1, "a mapping"),
    ],
)
def test_refusals_name_the_line_and_what_is_allowed(text: str, line: int, words: str) -> None:
    message = refusal(text)
    assert words in message
    assert re.search(rf"^mine\.yaml:{line}: .*{re.escape(words)}", message, re.MULTILINE), message


def test_every_fault_is_named() -> None:
    lines = refusal("name: a\nbatch: 3\nfoo: 1\nchunks: 0\ncomponents: [x]").splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"mine.yaml:{n}" for n in (2, 3, 4, 5)]


def test_a_recipe_that_refers_to_itself() -> None:
    assert "not YAML" in refusal("name: a\nsizes: &s [*s]")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("compression: {unet: {mixed: bits.yaml}}", "mixed"),
    ],
)
def test_what_cannot_be_built_yet_is_refused_by_name(text: str, what: str) -> None:
    recipe = parse_recipe(f"name: a\n{text}", "mine.yaml")
    with pytest.raises(UnsupportedRecipe, match=re.escape(repr(what))):
        recipe.refuse_unbuildable()


def test_what_new_targets_have() -> None:
    compression = "compression: {unet: {palettize: 3, group_size: 16}, vae_decoder: {linear: 4}}"
    for target in ("iOS18", "iOS26", "macOS15", "macOS26"):
        recipe = parse_recipe(f"name: a\ndeployment_target: {target}\n{compression}", "mine.yaml")
        recipe.refuse_unbuildable()
        assert recipe.compression["unet"].of_layer("any") == recipe.compression["unet"]


def test_a_file_of_bits_stands_beside_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ncompression: {unet: {mixed: bits.yaml}}")
    bits = tmp_path / "bits.yaml"
    bits.write_text(LayerBits({"conv_in": 16, "mid_block.proj": 4}, family="sd15").text())
    compression = load_recipe(str(path)).compression["unet"]
    assert compression.of_layer("mid_block.proj") == Compression(palettize=4)
    assert compression.of_layer("conv_in") is compression.of_layer("elsewhere") is None
    for text, line, words in (
        ("layers: {}", 1, "at least one layer"),
        ("family: sd15", 1, "layers: missing"),
        ("layers:\n  a: 8\n  b: 7", 3, "8 or 16"),
        ("layers:\n  a: 8\n  b: 3", 3, "iOS18, macOS15 or newer"),
        ("layers:\n  a: 8\n  a: 4", 3, "twice"),
    ):
        bits.write_text(text)
        with pytest.raises(UnsupportedRecipe) as refused:
            load_recipe(str(path))
        assert refused.value.message.startswith(f"{bits}:{line}: ")
        assert words in refused.value.message
    bits.unlink()
    with pytest.raises(UnsupportedRecipe, match=r"bits\.yaml"):
        load_recipe(str(path))


def test_recipes_by_name_and_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine")
    assert load_recipe(str(path)).name == "mine"
    with pytest.raises(UnsupportedRecipe, match="origami") as refused:
        load_recipe("origami")
    assert "original" in refused.value.hint
    with pytest.raises(UnsupportedRecipe, match=r"nowhere\.yaml"):
        load_recipe(str(tmp_path / "nowhere.yaml"))
    path.write_bytes(b"name: \xff")
    with pytest.raises(UnsupportedRecipe, match=r"mine\.yaml"):
        load_recipe(str(path))


@given(
    st.lists(
        st.sampled_from([f.name for f in dataclasses.fields(Recipe)])
        | st.sampled_from(["[", "]", "{", "}", ": ", "- ", "\n", "  ", "&a", "*a", "<<", "unet"])
        | st.text(max_size=3),
        max_size=20,
    )
)
def test_any_text_is_a_recipe_or_refused(parts: list[str]) -> None:
    with contextlib.suppress(UnsupportedRecipe):
        assert parse_recipe("".join(parts), "mine.yaml").name
