"""How the run starts servers of vLLM, which is installed in an environment of its own."""

from typing import Annotated

from pydantic import Field, field_validator

from rlaifv_kedro.params.base import Count, Effect, Params

OptionValue = str | int | float | bool | list | dict | None

OURS = {
    "api-key": "each start draws one",
    "data-parallel-size": "set serving.servers",
    "dtype": "set the model's dtype",
    "enable-scale-out": "prompts are asked as token ids",
    "generation-config": "decoding is this project's",
    "headless": "set serving.servers",
    "host": "servers are reached from this machine alone",
    "limit-mm-per-prompt": "a prompt has one image",
    "max-logprobs": "the tokens that are asked for are named",
    "model": "it is the role's checkpoint",
    "port": "set serving.ports",
    "served-model-name": "it is the role's",
    "tensor-parallel-size": "set serving.gpus_per_server",
    "tokenizer": "it is the checkpoint's",
    "trust-remote-code": "set the model's trust_remote_code",
    "uds": "set serving.ports",
}
"""Options of vLLM that the run sets itself -> what decides about them."""


class ServingParams(Params):
    """Servers of vLLM that the run starts for a model, and ends when the stage ends."""

    python: Annotated[str, Effect.EXECUTION] = Field(
        ".venv-vllm/bin/python",
        min_length=1,
        description="the interpreter of an environment that has vLLM; make vllm-env makes the default for "
        "CPUs, docs/serving.md says how on GPUs",
    )
    servers: Annotated[Count | None, Effect.EXECUTION] = Field(
        None, description="without it, as many as the free GPUs allow, and one on a CPU"
    )
    gpus_per_server: Annotated[Count, Effect.EXECUTION] = Field(
        1, description="GPUs over which one server spreads the model: vLLM's tensor parallel size"
    )
    engine_options: dict[str, OptionValue] = Field(
        {},
        description="further options of vllm serve without their dashes, such as max-model-len: 4096; true "
        "and false switch one on and off. They may change results (quantization)",
    )
    environment: Annotated[dict[str, str], Effect.EXECUTION] = Field(
        {},
        description="further environment variables of the servers, such as VLLM_CPU_KVCACHE_SPACE: '4' (GiB)",
    )
    ports: Annotated[tuple[int, int], Effect.EXECUTION] = Field(
        (18100, 18999), description="first and last port that servers may take, on this machine's loopback"
    )
    start_timeout: Annotated[float, Effect.EXECUTION] = Field(
        1800, gt=0, description="seconds until a started server must answer"
    )

    @field_validator("engine_options")
    @classmethod
    def _are_not_ours(cls, value: dict[str, OptionValue]) -> dict[str, OptionValue]:
        named = {name.lstrip("-").replace("_", "-").removeprefix("no-"): name for name in value}
        for name in named.keys() & OURS.keys():
            raise ValueError(f"{named[name]} is set by the run itself: {OURS[name]}")
        return {name.lstrip("-").replace("_", "-"): option for name, option in value.items()}

    @field_validator("ports")
    @classmethod
    def _are_a_range(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1024 <= value[0] <= value[1] <= 65535:
            raise ValueError("give the first and the last port, between 1024 and 65535")
        return value
