"""Whether a model's folder is whole and its processor loads; of the weights only headers are read."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.formats import billions
from rlaifv_kedro.models.encoding import ChatEncoder
from rlaifv_kedro.models.files_of_checkpoint import Problem, problems_of_small_files
from rlaifv_kedro.models.folder import (
    ADAPTER_CONFIG,
    CONFIG,
    LLAVA_ORIGINAL,
    PROCESSORS,
    TOKENIZERS,
    CheckpointFolder,
)
from rlaifv_kedro.models.hub import folder_here, is_hub_name
from rlaifv_kedro.models.loading_errors import checkpoint_errors
from rlaifv_kedro.models.processors import TEMPLATES, load_processor, named_template, processor_template
from rlaifv_kedro.models.trial import refuse_misfits
from rlaifv_kedro.preflight.finding import Finding
from rlaifv_kedro.preflight.shapes import LLAVA_TOKENS, image_patches, image_tokens, size_of
from rlaifv_kedro.preflight.sizes import ModelSize

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from rlaifv_kedro.params import WeightsParams


OWN_FOLDER = "Give the folder that training wrote."


@dataclass(frozen=True)
class UsedModel:
    """A model of the run.

    Attributes:
        role: policy, labeler, splitter, question_writer or judge.
        source: Folder, or name on the model hub.
        where: What names it: a catalog entry or a parameter.
        params: How it is loaded.
        fetch: The command that fetches it, if known.
        vision: Whether it is shown images.
    """

    role: str
    source: str
    where: str
    params: "WeightsParams"
    fetch: str = ""
    vision: bool = True


class Look(NamedTuple):
    """What was found out about a model.

    Attributes:
        findings: One that says ok, or one for each thing that is wrong.
        size: None if its weights and config couldn't be read.
        processor: Its processor, or a text LLM's tokenizer, with the chat template that the run takes; None
            where it can't be loaded without the weights.
    """

    findings: list[Finding]
    size: ModelSize | None
    processor: Any


def look_at(model: UsedModel) -> Look:
    """All that can be known of a model without loading its weights."""
    check = _Check(model)
    check.run()
    return Look(check.findings, check.size, check.processor)


class _Check:
    """The checks of one model; ``findings``, ``size`` and ``processor`` are what comes of them."""

    def __init__(self, model: UsedModel):
        self.model = model
        self.findings: list[Finding] = []
        self.size: ModelSize | None = None
        self.processor: Any = None
        named = model.params.chat_template
        self.template = named if named in TEMPLATES or (named and Path(named).is_file()) else None

    def run(self) -> None:
        """Make all checks of the model."""
        given = self._located(self.model.source)
        whole = None if given is None else self._with_weights(given)
        adapter = getattr(self.model.params, "adapter", None)  # only the backend transformers takes some
        if adapter and (beside := self._located(adapter)):
            self._check_adapter(beside)
        named = self.model.params.chat_template
        if named and self.template is None:
            self._wrong(
                "the chat template is not there",
                named,
                f"Put it there, or unset models.{self.model.role}.chat_template.",
            )
        if whole is not None:
            self._check(whole)
        if whole is not given:  # adapters may have a processor of their own
            self.processor = None
        if given is not None and not self.findings:
            counted = f"{billions(self.size.parameters)} parameters" if self.size else "of unknown size"
            ok = f"{self.model.role}: {counted}, all files there, its processor loads"
            self.findings.append(Finding(True, ok, shown(given.path)))

    def _wrong(self, what: str, where: str | Path, remedy: str = "") -> None:
        remedy = (
            remedy or self.model.fetch or f"Fetch it as docs/recipes.md says, or change {self.model.where}."
        )
        what = what.removeprefix(f"{shown(where)}: ")  # as errors begin
        self.findings.append(Finding(False, f"{self.model.role}: {what}", shown(where), remedy))

    @contextmanager
    def _saying(self, where: Path, remedy: str = "") -> Iterator[None]:
        """Makes a finding of what is refused inside."""
        try:
            yield
        except UserError as error:
            self._wrong(error.message, where, remedy)

    def _located(self, source: str) -> CheckpointFolder | None:
        """The folder; None, with a finding, if it is not on this machine."""
        here = folder_here(source)
        if here is not None:
            return CheckpointFolder(here)
        if not is_hub_name(source):
            self._wrong("the folder is not there", source)
            return None
        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            what = "it is not in the hub's cache, and HF_HUB_OFFLINE is set"
            self._wrong(what, source, f"hf download {source}")
            return None
        what = f"{self.model.role}: it is not on this machine; the run will download it"
        note = f"To fetch it now: hf download {source}. Its size isn't known here, nor counted below."
        self.findings.append(Finding(True, what, source, note))
        return None

    def _with_weights(self, given: CheckpointFolder) -> CheckpointFolder | None:
        """The folder itself, or the checkpoint that the adapters in it belong to."""
        if not given.is_adapter:
            return given
        self._tell(given.problems(), OWN_FOLDER)
        try:
            return self._located(given.base)
        except UserError:  # is one of the problems
            return None

    def _check_adapter(self, folder: CheckpointFolder) -> None:
        """Adapters that the parameters name; the checkpoint they are merged into is the role's own."""
        if not folder.is_adapter:
            self._wrong("the folder holds no LoRA adapters", folder.path / ADAPTER_CONFIG, OWN_FOLDER)
        else:
            self._tell(folder.weights.problems, OWN_FOLDER)

    def _tell(self, problems: Iterable[Problem], remedy: str = "") -> None:
        for problem in problems:
            self._wrong(problem.what, problem.where, remedy)

    def _check(self, whole: CheckpointFolder) -> None:
        """The config, the weights, the architecture, the tokenizer and the processor."""
        self._tell(whole.problems())
        try:
            described = whole.config
        except UserError:  # is one of the problems
            return
        if whole.family == LLAVA_ORIGINAL:
            self.size = size_of(described, whole, LLAVA_TOKENS, LLAVA_TOKENS)
            self._check_original(whole)
            return
        config = self._known_config(whole)
        if config is None:
            return
        self._check_class(whole, config)
        if self._check_tokenizer(whole):
            self._check_processor(whole, config)
        text = config.get_text_config().to_dict()
        self.size = size_of(text, whole, image_tokens(config), image_patches(config))

    def _check_original(self, whole: CheckpointFolder) -> None:
        """A LLaVA in its original layout, and the CLIP that it names if its own weights have no tower."""
        from rlaifv_kedro.models.llava.original_config import llava_config, named_tower

        tower, names = named_tower(whole.config, whole.path), whole.weights.names
        if names and not any("vision_tower." in name for name in names):
            self._located(tower)
        if not self._check_tokenizer(whole) or self.findings:  # what is missing can't be looked at
            return
        with self._saying(whole.path / CONFIG):
            config = llava_config(whole.config, whole.path, None, tower)
            config.text_config.vocab_size += 2  # rows that loading adds, for <image> and <pad>
            self._check_processor(whole, config)

    def _known_config(self, whole: CheckpointFolder) -> "PreTrainedConfig | None":
        """The config, if the architecture is one that the run can load."""
        from transformers import AutoConfig

        from rlaifv_kedro.models import minicpm_v, omnilmm
        from rlaifv_kedro.transformers_private import (
            MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        )

        omnilmm.register()
        minicpm_v.register()
        known = {
            *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
            "omnilmm",
            "minicpmv",
            *(() if self.model.vision else MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        }
        remote, kind = self.model.params.trust_remote_code, whole.family
        config_file = whole.path / CONFIG
        if kind not in known and not remote:
            self._wrong(
                f"nothing here can load its architecture, model_type {kind!r}",
                config_file,
                "Choose another model; or, if it brings its code, set "
                f"models.{self.model.role}.trust_remote_code.",
            )
            return None
        with self._saying(config_file), checkpoint_errors(config_file, "can't be used"):
            return AutoConfig.from_pretrained(whole.path, trust_remote_code=remote)
        return None

    def _check_class(self, whole: CheckpointFolder, config: "PreTrainedConfig") -> None:
        """A model that is shown images reads them as tokens of its prompt."""
        from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

        from rlaifv_kedro.branching.ways import refuse_unsupported

        kind = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None) if self.model.vision else None
        if not isinstance(kind, type):
            return
        with self._saying(whole.path / CONFIG, "Choose another model."):
            refuse_unsupported(kind, config)

    def _check_tokenizer(self, whole: CheckpointFolder) -> bool:
        found = whole.has_any(TOKENIZERS)
        if not found:
            self._wrong(
                "the tokenizer is missing (tokenizer.json or tokenizer.model)", whole.path / TOKENIZERS[0]
            )
        return found

    def _check_processor(self, whole: CheckpointFolder, config: "PreTrainedConfig") -> None:
        """The processor, or a text LLM's tokenizer, loaded as the run does; and its chat template."""
        folder = whole.path
        own = config.model_type in ("omnilmm", "minicpmv")  # made from the tokenizer and the config
        multimodal = hasattr(config, "vision_config")
        made = own or whole.family == LLAVA_ORIGINAL
        if problems_of_small_files(folder):  # are told
            return
        if multimodal and not made and not whole.has_any(PROCESSORS):
            self._wrong(f"the image processor is missing ({' or '.join(PROCESSORS)})", folder / PROCESSORS[0])
            return
        with self._saying(folder):
            loaded = self._processor(whole, config) if multimodal or own else self._tokenizer(whole)
            if not processor_template(loaded) and self.model.params.chat_template is None:
                self._wrong(
                    "it has no chat template",
                    folder / "chat_template.jinja",
                    f"Copy it there, or name one: models.{self.model.role}.chat_template.",
                )
            elif self.model.vision and processor_template(loaded):
                refuse_misfits(ChatEncoder(loaded, str(folder)), config)
            self.processor = loaded

    def _processor(self, whole: CheckpointFolder, config: "PreTrainedConfig") -> Any:
        params = self.model.params
        return load_processor(
            whole,
            config,
            trust_remote_code=params.trust_remote_code,
            chat_template=self.template,
            image_aspect_ratio=getattr(params, "image_aspect_ratio", None),
        )

    def _tokenizer(self, whole: CheckpointFolder) -> Any:
        from transformers import AutoTokenizer

        with checkpoint_errors(whole.path, "its processor or tokenizer can't be loaded"):
            loaded = AutoTokenizer.from_pretrained(
                whole.path, trust_remote_code=self.model.params.trust_remote_code
            )
            if self.template is not None:
                loaded.chat_template = named_template(self.template)
            return loaded
