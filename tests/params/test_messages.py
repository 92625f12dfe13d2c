"""Parameters under an earlier name: refused with the new one, and read so in manifests of earlier runs."""

import pytest

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import flatten
from rlaifv_kedro.params import Parameters, validate_parameters
from rlaifv_kedro.params.messages import RENAMED, with_new_names


def test_an_earlier_name_is_refused_with_the_new_one() -> None:
    with pytest.raises(UserError) as caught:
        validate_parameters({"training": {"warmup_share": 0.1, "loader_workers": 2}})
    assert caught.value.message.splitlines()[1:] == [
        "  - training.warmup_share: is called training.warmup_ratio now",
        "  - training.loader_workers: is called training.dataloader_num_workers now",
    ]


def test_new_names_exist_beside_where_the_earlier_ones_stood() -> None:
    known = flatten(Parameters().model_dump())
    for old, new in RENAMED.items():
        assert new in known and old not in known
        assert old.rpartition(".")[0] == new.rpartition(".")[0]


def test_earlier_parameters_get_new_names_and_keep_their_values() -> None:
    earlier = {"seed": 3, "training": {"beta": 0.1, "warmup_share": 0.2}, "loop": None}
    assert with_new_names(earlier) == {
        "seed": 3,
        "training": {"beta": 0.1, "warmup_ratio": 0.2},
        "loop": None,
    }
    assert earlier["training"]["warmup_share"] == 0.2  # the caller's stay as they are
    assert with_new_names({"training": None}) == {"training": None}


def test_models_of_an_earlier_version_have_only_what_their_backend_has() -> None:
    """Every model was recorded with the parameters of all backends."""
    every = {"path": None, "url": None, "model": None, "timeout": 120, "adapter": None, "top_logprobs": 20}
    earlier = {"models": {"labeler": {"backend": "transformers", **every}, "judge": None}}
    assert with_new_names(earlier)["models"] == {
        "labeler": {"backend": "transformers", "path": None, "adapter": None},
        "judge": None,
    }
    served = {**every, "backend": "openai", "url": "http://127.0.0.1:8000/v1", "model": "m"}
    assert with_new_names({"models": {"labeler": served}})["models"]["labeler"] == {
        "backend": "openai",
        "url": "http://127.0.0.1:8000/v1",
        "model": "m",
        "timeout": 120,
        "top_logprobs": 20,
    }
