"""Where the models come from, by role."""

from typing import Any, Literal

from pydantic import Field, field_validator

from rlaifv_kedro.params.base import Count, Params


class ComputeParams(Params):
    """Where and how models compute."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU if there is one")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "bfloat16", description="dtype of the weights while computing; the release uses bf16"
    )
    threads: int = Field(
        0,
        strict=True,
        ge=0,
        le=1024,
        description="CPU threads; 0 leaves torch's own choice. Sums may differ in the last bit between "
        "settings",
    )
    max_tokens_per_pack: Count = Field(
        4096,
        description="longer packs (an image with very many questions) are scored in groups over the "
        "prefix's cache: bounds memory",
    )

    def loading(self) -> dict[str, Any]:
        """Arguments of :func:`rlaifv_kedro.models.load_model`."""
        return {"dtype": self.dtype, "device": self.device, "max_tokens_per_pack": self.max_tokens_per_pack}


class ModelParams(Params):
    """Where a model comes from and how it is loaded or asked."""

    backend: Literal["transformers", "openai", "vllm"] = Field(
        "transformers",
        description="transformers: in this process; openai: any OpenAI-compatible server; vllm: its offline "
        "engine (an extra)",
    )
    path: str | None = Field(
        None, description="folder or hub name of the weights; without one, the catalog's checkpoint"
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="without one, compute.dtype"
    )
    device_map: str | None = Field(
        None, description="auto spreads a model over the GPUs (accelerate); without one, compute.device"
    )
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = Field(
        "sdpa", description="flash_attention_2 can't share prefixes: slow"
    )
    adapter: str | None = Field(None, description="folder of LoRA adapters to merge")
    chat_template: str | None = Field(
        None, description="file with a chat template instead of the checkpoint's"
    )
    trust_remote_code: bool = Field(False, description="run code that comes with the weights")
    url: str | None = Field(None, description="openai: the server's address up to /v1")
    model: str | None = Field(None, description="openai: the name that the server knows the model by")
    api_key_variable: str = Field(
        "OPENAI_API_KEY",
        description="openai: environment variable with the key; a server without keys needs none",
    )
    concurrency: Count = Field(16, description="openai: requests under way at once")
    requests_per_minute: Count | None = Field(
        None, description="openai: most requests a minute, retries included; without it, no limit of ours"
    )
    timeout: float = Field(120, gt=0, description="openai: seconds to wait for a reply")
    retries: int = Field(
        6, strict=True, ge=0, le=100, description="openai: tries after the first, with growing pauses"
    )
    top_logprobs: int = Field(
        20,
        strict=True,
        ge=1,
        le=100,
        description="openai, vllm: most likely first tokens in which yes and no are looked for",
    )
    price_input: float = Field(
        0, ge=0, description="openai: price of a million tokens of prompts, for the account of costs"
    )
    price_output: float = Field(0, ge=0, description="openai: price of a million tokens of replies")

    def loading(self) -> dict[str, Any]:
        """Arguments of :func:`rlaifv_kedro.models.load_model` that aren't left to compute."""
        names = ("attn_implementation", "device_map", "adapter", "chat_template", "trust_remote_code")
        return {name: getattr(self, name) for name in names} | (
            {} if self.dtype is None else {"dtype": self.dtype}
        )


class ModelsParams(Params):
    """The models by their role. The policy's checkpoint is always the catalog's: it changes from iteration
    to iteration.
    """

    policy: ModelParams = ModelParams()
    labeler: ModelParams = ModelParams()
    splitter: ModelParams = ModelParams()
    question_writer: ModelParams | None = Field(
        None, description="turns claims into questions; without one, the splitter does"
    )
    judge: ModelParams | None = Field(
        None,
        description="text LLM that judges the answers of benchmarks; only those that need one ask for it",
    )

    @field_validator("policy")
    @classmethod
    def _is_the_catalogs(cls, value: ModelParams) -> ModelParams:
        if value.path is not None or value.backend == "openai":
            raise ValueError(
                "the policy that is trained is a checkpoint of the catalog: set the entry base_policy there"
            )
        if value.adapter is not None:
            raise ValueError(
                "adapters would be merged again into every policy of the loop: merge them once (rlaifv "
                "merge --adapter ... "
                "--out ...), and set the entry base_policy to the result"
            )
        return value
