"""Where the models come from, by role: from weights in this process, or servers."""

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from rlaifv_kedro.params.base import Count, Effect, Params
from rlaifv_kedro.params.compute import Dtype
from rlaifv_kedro.params.serving import ServingParams


class BackendParams(Params):
    """How one backend comes to a model."""

    @model_validator(mode="before")
    @classmethod
    def _without_defaults_of_others(cls, value: Any) -> Any:
        """Leave out fields of another backend that are empty, or have its default: they say nothing.

        A run of an earlier version recorded them all, and a recipe's path is unset by null.
        """
        return without_defaults_of_others(value, cls) if isinstance(value, dict) else value


class WeightsParams(BackendParams):
    """A model whose weights are loaded for the run."""

    path: str | None = Field(
        None, description="folder or hub name of the weights; without one, the catalog's checkpoint"
    )
    dtype: Dtype | None = Field(None, description="without one, compute.dtype")
    chat_template: str | None = Field(
        None,
        description="instead of the checkpoint's: a file with a chat template, or llava_v1, the release's "
        "for LLaVA-1.5, whose system sentence the templates of llava-hf lack",
    )
    image_aspect_ratio: Literal["pad", "crop"] | None = Field(
        None,
        description="of LLaVA-1.5: pictures are padded to a square, or cut to one. Without it, as a "
        "checkpoint in the original layout states, and else pad, as LLaVA-1.5 answers in the release",
    )
    trust_remote_code: bool = Field(False, description="run code that comes with the weights")


class TransformersParams(WeightsParams):
    """A model in this process, by transformers."""

    backend: Literal["transformers"] = "transformers"
    device_map: Annotated[str | None, Effect.EXECUTION] = Field(
        None, description="auto spreads a model over the GPUs (accelerate); without one, compute.device"
    )
    attn_implementation: Annotated[Literal["sdpa", "eager", "flash_attention_2"], Effect.EXECUTION] = Field(
        "sdpa",
        description="flash_attention_2 can't share prefixes: slow; the results are the same to rounding",
    )
    adapter: str | None = Field(None, description="folder of LoRA adapters to merge")


class AskedParams(BackendParams):
    """A model that is asked over HTTP."""

    concurrency: Annotated[Count, Effect.EXECUTION] = Field(
        16, description="requests under way at once, at each of the servers"
    )
    timeout: Annotated[float, Effect.EXECUTION] = Field(120, gt=0, description="seconds to wait for a reply")
    retries: Annotated[int, Effect.EXECUTION] = Field(
        6, strict=True, ge=0, le=100, description="tries after the first, with growing pauses"
    )


class VLLMParams(WeightsParams, AskedParams):
    """A model on servers of vLLM that the run starts itself."""

    backend: Literal["vllm"] = "vllm"
    serving: ServingParams = ServingParams()
    concurrency: Annotated[Count, Effect.EXECUTION] = Field(
        256,
        description="requests under way at once, at each of the servers: as many as vLLM computes at once",
    )
    timeout: Annotated[float, Effect.EXECUTION] = Field(
        600, gt=0, description="seconds to wait for a reply, which may wait its turn in the server"
    )


class OpenAIParams(AskedParams):
    """A model on any OpenAI-compatible server."""

    backend: Literal["openai"] = "openai"
    url: Annotated[str | list[str], Effect.EXECUTION] = Field(
        description="the server's address up to /v1, such as http://127.0.0.1:8000/v1, or a list of several "
        "servers' with the same model: what is asked about one image goes to one of them, and to the next "
        "one when it doesn't answer. The result is the model's, wherever it is asked"
    )
    model: str = Field(min_length=1, description="the name that the server knows the model by")
    api_key_variable: Annotated[str, Effect.EXECUTION] = Field(
        "OPENAI_API_KEY", description="environment variable with the key; a server without keys needs none"
    )
    requests_per_minute: Annotated[Count | None, Effect.EXECUTION] = Field(
        None, description="most requests a minute, retries included; without it, no limit of ours"
    )
    tokenizer: Annotated[str | None, Effect.EXECUTION] = Field(
        None,
        description="folder or hub name of the checkpoint that is served: its count of a prompt's tokens is "
        "compared with the server's, and a difference is said; without it nothing is compared",
    )
    top_logprobs: int = Field(
        20,
        strict=True,
        ge=1,
        le=100,
        description="most likely first tokens in which yes and no are looked for",
    )
    price_input: Annotated[float, Effect.EXECUTION] = Field(
        0, ge=0, description="price of a million tokens of prompts, for the account of costs"
    )
    price_output: Annotated[float, Effect.EXECUTION] = Field(
        0, ge=0, description="price of a million tokens of replies"
    )

    @field_validator("url")
    @classmethod
    def _are_addresses(cls, value: str | list[str]) -> str | list[str]:
        addresses = [value] if isinstance(value, str) else value
        if not addresses:
            raise ValueError("there is no address: give one such as http://127.0.0.1:8000/v1")
        for address in addresses:
            _refuse_no_address(address)
        if len(set(addresses)) < len(addresses):
            raise ValueError("an address stands there twice: name each server once")
        return value

    @property
    def urls(self) -> list[str]:
        """The addresses, of one server or several."""
        return [self.url] if isinstance(self.url, str) else self.url


def _refuse_no_address(value: str) -> None:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # "http://[::1", or a port that is no number
        usable = False
    if not usable or any(map(str.isspace, value)):
        raise ValueError("it is no address: give one such as http://127.0.0.1:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            "leave out user, query and fragment: the key of a server comes from the environment variable "
            "in api_key_variable"
        )


BACKENDS: dict[str, type[BackendParams]] = {
    "transformers": TransformersParams,
    "openai": OpenAIParams,
    "vllm": VLLMParams,
}


def backend_of(value: Any) -> str:
    """Name of the backend that parameters of a model are for; without one, ``transformers``."""
    named = (
        value.get("backend", "transformers")
        if isinstance(value, dict)
        else getattr(value, "backend", "transformers")
    )
    return str(named)


def backends_with(field: str) -> list[str]:
    """Names of the backends that have a parameter."""
    return [name for name, params in BACKENDS.items() if field in params.model_fields]


def without_defaults_of_others(given: dict[str, Any], own: type[BackendParams]) -> dict[str, Any]:
    """Parameters of a model without those that only other backends have and that are empty or a default.

    Args:
        own: The backend's.
    """
    return {
        name: value
        for name, value in given.items()
        if name in own.model_fields or not _says_nothing(name, value)
    }


def _says_nothing(name: str, given: Any) -> bool:
    """Whether a value is empty, or the default, of a parameter that some backend has."""
    return any(
        given is None or given == BACKENDS[backend].model_fields[name].default
        for backend in backends_with(name)
    )


ModelParams = Annotated[
    Annotated[TransformersParams, Tag("transformers")]
    | Annotated[OpenAIParams, Tag("openai")]
    | Annotated[VLLMParams, Tag("vllm")],
    Discriminator(backend_of),
]
"""Where a model comes from and how it is loaded or asked."""


class ModelsParams(Params):
    """The models by their role.

    The policy's checkpoint is always the catalog's: it changes from iteration to iteration.
    """

    policy: ModelParams = Field(TransformersParams(), description="answers questions about pictures")
    labeler: ModelParams = Field(TransformersParams(), description="says of each claim whether it is true")
    splitter: ModelParams = Field(TransformersParams(), description="divides answers into claims")
    question_writer: ModelParams | None = Field(
        None, description="turns claims into questions; without one, the splitter does"
    )
    judge: ModelParams | None = Field(
        None,
        description="text LLM that judges the answers of benchmarks; only those that need one ask for it",
    )

    @field_validator("policy")
    @classmethod
    def _is_the_catalogs(cls, value: BackendParams) -> BackendParams:
        if isinstance(value, OpenAIParams) or value.path is not None:
            raise ValueError(
                "the policy that is trained is a checkpoint of the catalog: set the entry base_policy there"
            )
        if isinstance(value, TransformersParams) and value.adapter is not None:
            raise ValueError(
                "adapters would be merged again into every policy of the loop: merge them once (rlaifv merge "
                "--adapter ... --out ...), and set the entry base_policy to the result"
            )
        return value

    @field_validator("question_writer", "judge")
    @classmethod
    def _names_a_model(cls, value: BackendParams | None) -> BackendParams | None:
        if isinstance(value, WeightsParams) and value.path is None:
            raise ValueError(
                "it names no model: set its path to a folder or hub name, or its backend to openai with url "
                "and model"
            )
        return value
