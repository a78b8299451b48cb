"""Fleet files: what they ask for, and refusals that name every line at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from corepress.domain.composition import Lora
from corepress.domain.errors import InvalidFleetFile
from corepress.domain.job import CheckpointOptions, JobRequest
from corepress.domain.recipe import Recipe
from corepress.recipes import load_recipe
from corepress.submission.fleet_file import load_fleet, parse_fleet
from corepress_intake.request import Submission

ORIGINAL = load_recipe("original")


def requests(text: str, folder: Path = Path("/fleet")) -> list[JobRequest]:
    return [job.request for job in parse_fleet(text, "fleet.yaml", folder)]


def refusal(text: str) -> list[str]:
    with pytest.raises(InvalidFleetFile) as refused:
        parse_fleet(text, "fleet.yaml", Path("/fleet"))
    assert refused.value.path == "fleet.yaml"
    return refused.value.message.splitlines()


def test_an_address_is_enough() -> None:
    assert requests("models: [hf://owner/Model]") == [
        JobRequest("hf://owner/Model", (ORIGINAL,), "model")
    ]


def test_every_option() -> None:
    (request,) = requests(
        """
models:
- source: s3://models/a.safetensors
  name: mine
  recipes: [original, wide]
  compile: required
  priority: 9
  tags: [anime, nightly]
  precision: fp16
  variant: none
  family: sdxl
  prediction-type: v_prediction
  max-shard-size: 5GB
  original-config: {model: {params: {x: 1}}}
  config: {unet: {in_channels: 4}}
  tokenizer: vocabulary
  vae: vae.safetensors
  lora: [s3://models/b.safetensors:0.5, {source: c.safetensors, scale: 2}]
  controlnet: canny
  refiner: s3://models/refiner.safetensors
  ema: true
  clip-skip: 2
  allow-non-finite: true
  allow-pickle: true
  overflow: refuse
recipes:
  wide: {sizes: [[768, 512]]}
"""
    )
    assert request == JobRequest(
        "s3://models/a.safetensors",
        (ORIGINAL, Recipe("wide", sizes=[(768, 512)])),
        "mine",
        CheckpointOptions(
            precision="fp16",
            variant="none",
            family="sdxl",
            prediction_type="v_prediction",
            max_shard_size=5 * 10**9,
            ema=True,
            clip_skip=2,
            allow_non_finite=True,
            overflow="refuse",
            allow_pickle=True,
            original_config={"model": {"params": {"x": 1}}},
            config={"unet": {"in_channels": 4}},
            tokenizer="/fleet/vocabulary",
            vae="/fleet/vae.safetensors",
            lora=(Lora("s3://models/b.safetensors", 0.5), Lora("/fleet/c.safetensors", 2)),
        ),
        "required",
        ("/fleet/canny",),
        "s3://models/refiner.safetensors",
        9,
        ("anime", "nightly"),
    )


def test_a_model_goes_before_the_defaults_and_takes_them_back() -> None:
    first, second = requests(
        """
defaults: {clip-skip: 2, vae: hf://a/vae, tags: nightly, recipes: mac-ane}
models:
- hf://a/b
- {source: hf://a/c, clip_skip: null, vae: null, tags: null}
"""
    )
    assert (first.options.clip_skip, first.options.vae, first.tags) == (
        2,
        "hf://a/vae",
        ("nightly",),
    )
    assert (second.options.clip_skip, second.options.vae, second.tags) == (None, None, ())
    assert first.recipes == second.recipes == (load_recipe("mac-ane"),)


def test_a_matrix_builds_every_combination_under_a_name_of_its_own() -> None:
    jobs = requests(
        """
matrix:
  clip-skip: [1, 2]
  look:
    plain:
    vivid: {lora: "s3://a/vivid.safetensors:0.8", tags: vivid}
models:
- hf://a/b
- {source: hf://a/c, matrix: {}}
- {source: hf://a/d, matrix: {vae: [null, hf://x/soft-vae], recipes: [original, mac-gpu]}}
"""
    )
    assert [job.name for job in jobs] == [
        "b-clip-skip-1-plain",
        "b-clip-skip-1-vivid",
        "b-clip-skip-2-plain",
        "b-clip-skip-2-vivid",
        "c",
        *["d-vae-none"] * 2,
        *["d-vae-soft-vae"] * 2,
    ]
    assert [job.options.clip_skip for job in jobs[:5]] == [1, 1, 2, 2, None]
    assert jobs[1].options.lora == (Lora("s3://a/vivid.safetensors", 0.8),)
    assert [job.recipes[0].name for job in jobs[5:]] == ["original", "mac-gpu"] * 2


def test_files_beside_it_are_read(tmp_path: Path) -> None:
    (tmp_path / "v1.yaml").write_text("model: {date: 2022-10-01}")
    (tmp_path / "unet.json").write_text('{"in_channels": 9}')
    (tmp_path / "phone.yaml").write_text("name: phone\ncompression: {unet: {mixed: bits.yaml}}\n")
    (tmp_path / "bits.yaml").write_text("layers: {conv_in: 8}")
    (tmp_path / "fleet.yaml").write_text(
        """
defaults: {original-config: v1.yaml, config: {unet: unet.json}}
recipes:
  tablet: {compression: {unet: {mixed: bits.yaml}}}
models:
- {source: a.safetensors, recipes: [phone.yaml, tablet]}
"""
    )
    (job,) = load_fleet(tmp_path / "fleet.yaml")
    assert job.line == 6
    assert job.request.source == str(tmp_path / "a.safetensors")
    assert job.request.options.original_config == {"model": {"date": "2022-10-01"}}
    assert job.request.options.config == {"unet": {"in_channels": 9}}
    for recipe in job.request.recipes:
        assert recipe.compression["unet"].layers == {"conv_in": 8}


def test_equal_models_are_equal_jobs_whatever_stands_round_them() -> None:
    one = "defaults: {precision: fp16}\nmodels: [hf://a/b, hf://a/c]"
    other = "models:\n# first\n- hf://a/c\n- {precision: fp16, source: hf://a/b}"
    jobs, others = [[Submission.of(r).job for r in requests(text)] for text in (one, other)]
    assert jobs[0] == others[1]
    assert jobs[1] != others[0]


def test_every_fault_is_named_at_once() -> None:
    text = """\
defaults:
  recipe: original
  precision: fp17
recipes:
  wide:
    sizes: [[768, 512.5]]
    atention: original
  original: {}
matrix:
  clip-skp: [1, 2]
  ema: [1]
  look: {vivid: {lora: ""}}
  empty: []
modles: 1
models:
- source: s3://b/c.safetensors
  max-shard-size: big
  prioritty: 9
  priority: 10
  recipes: [orginal, wide, mac-ane, mac-ane]
  matrix: {}
  matrix: {}
- 7
- source: x.safetensors
  original-config: nowhere.yaml
- {name: Upper, source: a, ema: !!bool perhaps, lora: 5, config: {unet: 5}}
- source: c
  lora: [{source: d, scal: 2}]
- name: nameless
"""
    expected = [
        (2, "defaults.recipe: no such key in a fleet file; did you mean recipes"),
        (3, "defaults.precision: Input should be 'auto', 'fp16' or 'fp32'"),
        (6, "integer"),
        (7, "atention: no such key in a recipe; did you mean attention?"),
        (8, "original: this is the name of a built-in recipe"),
        (10, "clip-skp: no such option; did you mean clip-skip?"),
        (11, "ema: Input should be a valid boolean"),
        (12, "lora.0: '' is not SOURCE[:SCALE]"),
        (13, "empty: give a list of an option's values"),
        (14, "modles: no such key in a fleet file; did you mean models?"),
        (17, "max-shard-size: 'big' is neither none nor a size such as 5GB"),
        (18, "prioritty: no such key in a model; did you mean priority?"),
        (19, "priority: Input should be less than or equal to 9"),
        (20, "recipes.0: no recipe is called 'orginal'; did you mean original?"),
        (20, "recipes.3: mac-ane is built twice"),
        (22, "the key 'matrix' stands there twice"),
        (23, "Input should be an object"),
        (24, "cannot read /fleet/nowhere.yaml"),
        (26, "'perhaps' is no bool"),
        (26, "lora.0: Input should be an object"),
        (26, "config.unet: give the name of a file, or what it holds"),
        (26, "name: cannot name a bundle"),
        (28, "lora.0.scal: no such key in a model; did you mean scale?"),
        (29, "source: missing"),
    ]
    lines = refusal(text)
    for line, words in expected:
        assert any(
            re.match(rf"fleet\.yaml:{line}: .*{re.escape(words)}", each) for each in lines
        ), (
            line,
            words,
            lines,
        )
    assert {int(line.split(":")[1]) for line in lines} == {line for line, _ in expected}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "a fleet file is a mapping of keys to values, such as `models:`"),
        ("models: []", 1, "give at least one"),
        ("defaults: {}", 1, "models: missing"),
        ("models: [a, [", 1, "not YAML"),
        ("models:\n- hf://a/b\n- hf://c/b", 3, "b/original is built by line 2, too"),
        ("models: [a]\ndefaults: {name: x}", 2, "defaults.name: no such key"),
        ("models:\n- {source: a, clip-skip: 1}\nmatrix: {clip-skip: [1]}", 2, "matrix varies it"),
        ("models: [{source: a, recipes: [gone.yaml]}]", 1, "cannot read the recipe file"),
        ("models: ['file://elsewhere/a', b]\ndefaults: {lora: ''}", 2, "lora.0"),
        (f"models: [{{source: a, name: {'x' * 101}}}]", 1, "at most 100"),
        (f"models: [{'x' * 90}]\nmatrix: {{long: {{{'y' * 20}: }}}}", 1, "at most 100 letters"),
        ("models: [a]\nmatrix: {look: {'!': {}}}", 2, "'!' cannot be part of a name"),
    ],
)
def test_refusals_name_the_line(text: str, line: int, words: str) -> None:
    assert any(
        each.startswith(f"fleet.yaml:{line}: ") and words in each for each in refusal(text)
    ), refusal(text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidFleetFile, match=r"none\.yaml"):
        load_fleet(tmp_path / "none.yaml")
