"""Plans: what a job's steps are, what makes two of them the same work, and what is ready when."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corepress.domain.artifact import Artifact, Blob, canonical_json, sha256_digest
from corepress.domain.composition import Lora
from corepress.domain.errors import (
    IncompatibleControlNet,
    InternalError,
    MissingConfig,
    UnsupportedRecipe,
)
from corepress.domain.job import CheckpointOptions, JobRequest
from corepress.domain.plan import Node, build_nodes, opening_nodes, ready
from corepress.domain.recipe import Compression, Recipe
from corepress.domain.stage import Outputs, action_key

SOURCE = {"uri": "file:///model.safetensors", "fingerprint": {"model.safetensors": [1, 2]}}
SD15: dict[str, Any] = {
    "family": "sd15",
    "prediction_type": "epsilon",
    "components": {"unet": {}, "vae": {"overflows_float16": False}, "text_encoder": {}},
    "vae_scale_factor": 8,
    "unet_divisor": 8,
    "native_size": [512, 512],
}
SDXL = {
    **SD15,
    "family": "sdxl",
    "components": {
        **{name: {} for name in ("unet", "text_encoder", "text_encoder_2")},
        "vae": {"overflows_float16": True},
    },
    "unet_divisor": 4,
    "native_size": [1024, 1024],
}
MODELS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")
A = Recipe("a")


def plan(
    *recipes: Recipe, facts: dict[str, Any] = SD15, options: Any = None, **request: Any
) -> dict[str, Node]:
    wanted = JobRequest("model", recipes, "model", options or CheckpointOptions(), **request)
    return {node.id: node for node in build_nodes(wanted, {"source": facts})}


def of_stage(nodes: dict[str, Node], stage: str) -> list[Node]:
    return [node for node in nodes.values() if node.stage == stage]


def outputs_of(*names: str, salt: str = "") -> Outputs:
    def artifact(name: str) -> Artifact:
        return Artifact({name: Blob(sha256_digest((salt + name).encode()), 1)})

    figures = {"output": {"conversion": 90.0, "weights": 70.0}}
    return Outputs({name: artifact(name) for name in names}, {"psnr_db": figures})


NORMALIZED = outputs_of(
    *("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "scheduler")
)
MADE = ("package", "chunk1", "chunk2", "compiled", "bundle")


def action_keys(nodes: dict[str, Node]) -> dict[str, str]:
    """What each step would be cached under, by step, if the steps before it gave what they do."""
    done: dict[str, Outputs] = {"normalize": NORMALIZED}
    keys: dict[str, str] = {}
    while len(keys) < len(nodes):
        for node in ready(nodes.values(), done, ()).runnable:
            keys[node.id] = key = action_key(node.task(done), 1, {})
            done[node.id] = outputs_of(*MADE, salt=key)
    return keys


def by_component(nodes: dict[str, Node], stage: str = "convert") -> dict[str, str]:
    keys = action_keys(nodes)
    return {node.parameters["component"]: keys[node.id] for node in of_stage(nodes, stage)}


def test_the_steps_of_a_checkpoint() -> None:
    nodes = plan(A)
    assert tuple(n.parameters["component"] for n in of_stage(nodes, "convert")) == MODELS
    assert of_stage(nodes, "compile") == []
    assert {node.id for node in of_stage(nodes, "publish")} == {"publish-a"}
    assert nodes["publish-a"].needs == nodes.keys() - {"publish-a"} | {"normalize"}


def test_with_a_compiler_models_are_published_compiled() -> None:
    nodes = plan(A, compile="required")
    packages = {node.inputs["package"] for node in of_stage(nodes, "compile")}
    assert packages == {(node.id, "package") for node in of_stage(nodes, "convert")}
    published = {source for name, source in nodes["publish-a"].inputs.items() if "model/" in name}
    assert published == {(node.id, "compiled") for node in of_stage(nodes, "compile")}


def test_chunks_are_compiled_and_published_one_by_one() -> None:
    recipe = replace(A, chunks=2)
    nodes = plan(recipe, compile="required")
    (unet,) = (n for n in of_stage(nodes, "convert") if n.parameters["component"] == "unet")
    assert unet.parameters["chunks"] == 2
    compiled = {n.id: n.inputs["package"] for n in of_stage(nodes, "compile")}
    assert len(compiled) == len(MODELS) + 1
    inputs = nodes["publish-a"].inputs
    for chunk in ("chunk1", "chunk2"):
        assert compiled[inputs[f"model/unet_{chunk}"][0]] == (unet.id, chunk)
        assert plan(recipe)["publish-a"].inputs[f"model/unet_{chunk}"] == (unet.id, chunk)
    assert "model/unet" not in inputs
    assert nodes["publish-a"].facts["unet"] == unet.id
    others = [n for n in of_stage(nodes, "convert") if n is not unet]
    assert all("chunks" not in node.parameters for node in others)


def test_the_opening() -> None:
    request = JobRequest("model.safetensors", (A,), "model", CheckpointOptions(precision="fp16"))
    fetch, normalize = opening_nodes(request, {"source": SOURCE})
    assert not fetch.needs
    assert normalize.needs == {"fetch"}
    task = normalize.task({"fetch": outputs_of("source", "index")})
    assert task.inputs.keys() == {"source", "index"}  # a tokenizer only where there is one
    assert task.parameters["facts"].keys() == {"fetch"}


def test_what_is_baked_in_touches_only_unets_that_need_it() -> None:
    recipe = Recipe("a", guidance_scale=4, prediction_type="epsilon")
    assert by_component(plan(recipe)) == by_component(plan(A))
    consistency = {**SD15, "components": {"unet": {"guidance_embedding": True}, "vae": {}}}
    v = {**SD15, "prediction_type": "v_prediction"}
    for facts in (consistency, v):
        usual, baked = (by_component(plan(each, facts=facts)) for each in (A, recipe))
        assert {name for name in usual if usual[name] != baked[name]} == {"unet"}


# checkpoints beside the base model

NETWORK = {"context": 768, "channels": [320, 640], "layers": [2, 2]}
CONTROLLED = {**SD15, "network": NETWORK}
CONTROLNET = {**SD15, "family": "controlnet-sd15", "components": {"controlnet": {}}}
CONTROLNET |= {"network": NETWORK}
REFINER = {**SD15, "family": "sdxl-refiner", "network": {}}


def attached_plan(recipe: Recipe, facts: dict[str, Any], **request: Any) -> dict[str, Node]:
    wanted = JobRequest("model", (recipe,), "model", **request)
    return {node.id: node for node in build_nodes(wanted, facts)}


def published(nodes: dict[str, Node]) -> list[str]:
    (publish,) = of_stage(nodes, "publish")
    return [name.removeprefix("model/") for name in publish.inputs if name.startswith("model/")]


def test_what_is_attached_joins_whatever_a_recipe_builds() -> None:
    facts = {"source": CONTROLLED, "controlnet-0": CONTROLNET, "controlnet-1": CONTROLNET}
    controlnets = ("a/canny.safetensors", "hf://lllyasviel/sd-controlnet-mlsd")
    names = ["controlnet/Canny", "controlnet/LllyasvielSdControlnetMlsd"]
    nodes = attached_plan(A, facts, controlnets=controlnets)
    own = ["text_encoder", "unet", "controlled_unet", "vae_decoder", "vae_encoder"]
    assert published(nodes) == [*own, *names]
    nodes = attached_plan(Recipe("a", components=["unet"]), facts, controlnets=controlnets)
    assert published(nodes) == ["unet", "controlled_unet", *names]
    sdxl = {"source": SDXL, "refiner": REFINER}
    nodes = attached_plan(Recipe("a", components=["unet"]), sdxl, refiner="refiner.safetensors")
    assert published(nodes) == ["unet", "unet_refiner"]


def test_a_controlnet_of_the_checkpoint_itself_is_built_with_a_unet_for_it() -> None:
    both = {**SD15, "components": {"unet": {}, "controlnet": {}}}
    assert published(plan(A, facts=both)) == ["unet", "controlled_unet", "controlnet"]
    assert published(plan(Recipe("a", components=["controlnet"]), facts=both)) == ["controlnet"]


def test_a_safety_checker_is_built_where_a_recipe_names_it() -> None:
    checked = {**SD15, "components": {"vae": {}, "safety_checker": {}}}
    assert published(plan(A, facts=checked)) == ["vae_decoder", "vae_encoder"]
    assert published(plan(Recipe("a", components=["safety_checker"]), facts=checked)) == [
        "safety_checker"
    ]


def test_a_size_has_to_suit_what_is_attached() -> None:
    facts = {"source": SDXL, "refiner": REFINER}
    recipe = Recipe("a", sizes=[(1056, 1024)])
    with pytest.raises(UnsupportedRecipe, match="1056x1024 does not suit unet_refiner"):
        attached_plan(recipe, facts, refiner="refiner.safetensors")


def test_a_controlnet_that_gives_other_residuals_is_refused() -> None:
    small = {**CONTROLNET, "network": {**NETWORK, "layers": [1, 1]}}
    with pytest.raises(IncompatibleControlNet, match=r"layers is \[1, 1\], the UNet's \[2, 2\]"):
        attached_plan(A, {"source": CONTROLLED, "controlnet-0": small}, controlnets=("canny",))


def test_the_base_model_is_normalized_last_and_its_work_stays_the_same() -> None:
    request = JobRequest("model.safetensors", (A,), "model")
    more = replace(request, controlnets=("canny",), options=CheckpointOptions(ema=True))
    alone = {node.id: node for node in opening_nodes(request, {"source": SOURCE})}
    sources = {"source": SOURCE, "controlnet-0": SOURCE}
    nodes = {node.id: node for node in opening_nodes(more, sources)}
    assert nodes["normalize"].needs == {"fetch", "normalize-controlnet-0"}
    assert nodes["normalize-controlnet-0"].needs == {"fetch-controlnet-0"}
    # what is said of the base model is not said of a ControlNet
    assert nodes["fetch-controlnet-0"].parameters == alone["fetch"].parameters
    with_same_options = opening_nodes(replace(request, controlnets=("canny",)), sources)
    done = {name: outputs_of("source", "index") for name in ("fetch", "normalize-controlnet-0")}
    assert with_same_options[1].task(done) == alone["normalize"].task(done)


# what enters an action key


@given(
    name=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,8}", fullmatch=True),
    thresholds=st.dictionaries(st.sampled_from(["float16", "float32"]), st.floats(0, 200)),
    job_name=st.sampled_from(["model", "other"]),
)
def test_names_and_thresholds_convert_nothing_again(
    name: str, thresholds: dict[Any, float], job_name: str
) -> None:
    expected = action_keys(plan(A, compile="required"))
    request = JobRequest(
        "elsewhere", (Recipe(name, min_psnr_db=thresholds),), job_name, compile="required"
    )
    found = action_keys({node.id: node for node in build_nodes(request, {"source": SD15})})
    assert {node: key for node, key in found.items() if "publish-" not in node} == {
        node: key for node, key in expected.items() if "publish-" not in node
    }


@pytest.mark.parametrize(
    ("recipe", "touched"),
    [
        (replace(A, batch=1), {"unet"}),
        (replace(A, attention="split_einsum"), {"unet"}),
        (replace(A, sizes=[(768, 512)]), {"unet", "vae_decoder", "vae_encoder"}),
        (replace(A, sizes=[(512, 512)]), set()),
        (replace(A, precision={"unet": "float32"}), {"unet"}),
        (replace(A, precision={"default": "auto", "vae_encoder": "float32"}), {"vae_encoder"}),
        # that a VAE must not overflow is another task than to see whether it does
        (replace(A, precision={"default": "float16"}), {"vae_decoder", "vae_encoder"}),
        (replace(A, deployment_target="iOS18"), {*MODELS}),
        (replace(A, compression={"unet": Compression(palettize=6)}), {"unet"}),
        (replace(A, chunks=2), {"unet"}),
        (replace(A, compression={"controlnet": Compression(palettize=6)}), set()),
    ],
)
def test_a_setting_converts_only_what_it_touches(recipe: Recipe, touched: set[str]) -> None:
    before, after = by_component(plan(A)), by_component(plan(recipe))
    assert {name for name in before if before[name] != after[name]} == touched


def test_clip_skip_touches_text_encoders_only() -> None:
    before = by_component(plan(A, facts=SDXL))
    after = by_component(plan(A, facts=SDXL, options=CheckpointOptions(clip_skip=2)))
    assert {name for name in before if before[name] != after[name]} == {
        *("text_encoder", "text_encoder_2")
    }


@pytest.mark.parametrize(
    ("options", "touched"),
    [
        (CheckpointOptions(clip_skip=2), {"normalize"}),
        (CheckpointOptions(allow_non_finite=True), {"normalize"}),
        (CheckpointOptions(max_shard_size=10**9), {"normalize"}),
        (CheckpointOptions(variant="fp16"), {"fetch", "normalize"}),
        (CheckpointOptions(lora=(Lora("style", 0.5),)), {"normalize"}),
        (CheckpointOptions(tokenizer="folder"), {"fetch", "normalize"}),
    ],
)
def test_what_is_written_in_another_way_is_not_fetched_again(
    options: CheckpointOptions, touched: set[str]
) -> None:
    def keys(options: CheckpointOptions) -> dict[str, str]:
        nodes = opening_nodes(JobRequest("model", (A,), "model", options), {"source": SOURCE})
        done = {"fetch": outputs_of("source", "index")}
        return {node.id: action_key(node.task(done), 1, {}) for node in nodes}

    before, after = keys(CheckpointOptions()), keys(options)
    assert {step for step in before if before[step] != after[step]} == touched


def test_other_weights_of_a_component_touch_it_alone() -> None:
    nodes = plan(A)
    (unet,) = (n for n in of_stage(nodes, "convert") if n.parameters["component"] == "unet")
    changed = outputs_of("unet", salt="changed").artifacts["unet"]
    other = Outputs({**NORMALIZED.artifacts, "unet": changed})
    for node in of_stage(nodes, "convert"):
        tasks = [node.task({"normalize": normalized}) for normalized in (NORMALIZED, other)]
        assert (tasks[0] == tasks[1]) == (node != unet)


def test_tasks_are_json() -> None:
    nodes = plan(A, compile="required")
    done = {node: outputs_of("package", "compiled") for node in nodes} | {"normalize": NORMALIZED}
    for node in nodes.values():
        task = node.task(done)
        assert json.loads(canonical_json(task.document())) == task.document()
        assert Node.from_document(json.loads(canonical_json(node.document()))) == node


def test_an_overflowing_vae_is_converted_in_float32() -> None:
    nodes = of_stage(plan(A, facts=SDXL), "convert")
    assert {node.parameters["component"]: node.parameters["precision"] for node in nodes} == {
        **dict.fromkeys(("text_encoder", "text_encoder_2", "unet"), "float16"),
        **dict.fromkeys(("vae_decoder", "vae_encoder"), "float32"),
    }


# several recipes and sizes


def test_equal_components_of_two_recipes_are_converted_once() -> None:
    other = Recipe("b", precision={"unet": "float32"}, min_psnr_db={"float16": 90})
    nodes = plan(A, other)
    components = [node.parameters["component"] for node in of_stage(nodes, "convert")]
    assert sorted(components) == ["text_encoder", "unet", "unet", "vae_decoder", "vae_encoder"]
    shared = {n.id for n in of_stage(nodes, "convert") if n.parameters["component"] != "unet"}
    for build in ("publish-a", "publish-b"):
        assert shared < nodes[build].needs
        assert len(nodes[build].needs) == 5


def test_each_build_is_held_to_its_own_recipe() -> None:
    strict = Recipe("strict", precision={"unet": "float32"}, min_psnr_db={"float16": 90})
    nodes = plan(A, strict)
    assert nodes["publish-a"].parameters["min_psnr_db"] == {"float16": 60, "float32": 100}
    assert nodes["publish-strict"].parameters["min_psnr_db"] == {"float16": 90, "float32": 100}


def test_a_vae_is_looked_at_where_its_configuration_does_not_tell() -> None:
    stated = Recipe("a", precision={"vae_decoder": "float16"})
    for facts, expected in (
        (SD15, {"vae_decoder": "refuse", "vae_encoder": "float32"}),
        (SDXL, {"vae_decoder": "refuse"}),
    ):
        nodes = of_stage(plan(stated, facts=facts), "convert")
        found = {n.parameters["component"]: n.parameters.get("on_overflow") for n in nodes}
        assert {name: each for name, each in found.items() if each} == expected


def test_several_sizes_are_several_builds() -> None:
    nodes = plan(replace(A, sizes=[(512, 512), (768, 512)]))
    assert {node.id for node in of_stage(nodes, "publish")} == {
        *("publish-a-512x512", "publish-a-768x512")
    }
    components = [node.parameters["component"] for node in of_stage(nodes, "convert")]
    assert components.count("unet") == 2
    assert components.count("text_encoder") == 1


def test_two_builds_of_one_name_are_refused() -> None:
    with pytest.raises(UnsupportedRecipe, match="a-768x512"):
        plan(replace(A, sizes=[(512, 512), (768, 512)]), Recipe("a-768x512"))


# what a checkpoint cannot give


@pytest.mark.parametrize(
    ("components", "size", "refused", "hint"),
    [
        ("default", (512, 520), "unet", "512x512"),
        (["unet"], (544, 512), "unet", "576x512"),
        (["vae_decoder"], (508, 512), "vae_decoder", "512x512"),
        (["unet"], (8, 512), "unet", "64x512"),
        (["vae_encoder"], (-8, 512), "vae_encoder", "8x512"),
    ],
)
def test_sizes_that_do_not_suit(
    components: Any, size: tuple[int, int], refused: str, hint: str
) -> None:
    with pytest.raises(UnsupportedRecipe, match=refused) as caught:
        plan(replace(A, components=components, sizes=[size]))
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("components", "size", "facts"),
    [
        (["vae_decoder"], (520, 8), SD15),
        (["text_encoder"], (511, 3), SD15),
        ("default", (64, 576), SD15),
        ("default", (32, 1056), SDXL),
    ],
)
def test_sizes_that_suit(components: Any, size: tuple[int, int], facts: dict[str, Any]) -> None:
    nodes = plan(replace(A, components=components, sizes=[size]), facts=facts)
    sized = [node for node in of_stage(nodes, "convert") if "size" in node.parameters]
    assert all(node.parameters["size"] == list(size) for node in sized)


def test_components_that_are_not_there() -> None:
    with pytest.raises(UnsupportedRecipe, match=r"text_encoder_2.*text_encoder, unet"):
        plan(replace(A, components=["unet", "text_encoder_2"]))
    with pytest.raises(UnsupportedRecipe, match="sd3"):
        plan(A, facts={**SD15, "family": "sd3", "components": {"transformer": {}}})


def test_controlled_unet_by_request() -> None:
    (default,) = (n for n in of_stage(plan(A), "publish"))
    assert "controlled_unet" not in json.dumps(default.document())
    recipe = replace(A, components=["controlled_unet"], attention="split_einsum")
    (convert,) = of_stage(plan(recipe), "convert")
    assert convert.parameters["attention"] == "split_einsum"
    assert convert.inputs == {"component": ("normalize", "unet")}


# what is ready when


@st.composite
def graphs(draw: st.DrawFn) -> list[Node]:
    """Any steps, each of which needs some before it."""
    count = draw(st.integers(1, 8))
    needs = [draw(st.sets(st.integers(0, n - 1)) if n else st.just(set())) for n in range(count)]
    return [
        Node(str(n), "convert", {}, inputs={str(m): (str(m), "artifact") for m in needed})
        for n, needed in enumerate(needs)
    ]


@given(graphs(), st.data())
def test_every_step_runs_once_or_is_doomed(nodes: list[Node], data: st.DataObject) -> None:
    done: set[str] = set()
    failed: set[str] = set()
    doomed: set[str] = set()
    while (state := ready(nodes, done, failed | doomed)) != ready([], (), ()):
        doomed |= ids(state.doomed)
        if state.runnable:
            node = data.draw(st.sampled_from(state.runnable))
            assert node.needs <= done
            (failed if data.draw(st.booleans()) else done).add(node.id)
    assert done | failed | doomed == ids(nodes)
    assert not (done | failed) & doomed
    for node in nodes:
        assert (node.id in doomed) == bool(node.needs & (failed | doomed))


@given(graphs(), st.data())
def test_settled_steps_are_never_ready(nodes: list[Node], data: st.DataObject) -> None:
    some = st.sets(st.sampled_from(sorted(ids(nodes))))
    done, failed = data.draw(some), data.draw(some)
    state = ready(nodes, done, failed)
    assert not ids((*state.runnable, *state.doomed)) & (done | failed)


def ids(nodes: Iterable[Node]) -> set[str]:
    return {node.id for node in nodes}


def test_what_a_step_did_not_make_is_missed() -> None:
    node = Node("convert-unet", "convert", {}, inputs={"component": ("normalize", "unet")})
    with pytest.raises(InternalError, match="normalize made no 'unet', which convert-unet needs"):
        node.task({"normalize": outputs_of("vae")})
    node = Node("convert-unet", "convert", {}, inputs={"scheduler": ("normalize", "scheduler")})
    with pytest.raises(MissingConfig, match="noise schedule"):
        node.task({"normalize": outputs_of("unet")})
    lacking = Node("publish-a", "publish", {}, inputs={"tokenizer": ("normalize", "tokenizer")})
    assert lacking.task({"normalize": outputs_of("vae")}).inputs == {}
