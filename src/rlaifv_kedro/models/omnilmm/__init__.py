"""OmniLMM-12B, from which RLAIF-V-12B is trained, for transformers 5, which has no class for it."""


def register() -> None:
    """Make transformers' Auto classes know the config, the model and the processor.

    Calling it again changes nothing.

    Then ``AutoModelForImageTextToText.from_pretrained(folder)`` and ``AutoProcessor.from_pretrained(folder)``
    load a folder in the layout of the release (``model_type: omnilmm``), and what was saved from it. The
    release's config doesn't say which token stands for the image, so set ``model.config.image_token_id =
    processor.image_token_id`` before anything is computed or saved.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    from rlaifv_kedro.models.omnilmm.configuration import OmniLMMConfig
    from rlaifv_kedro.models.omnilmm.modeling import OmniLMMForConditionalGeneration
    from rlaifv_kedro.models.omnilmm.processing import OmniLMMProcessor

    AutoConfig.register(OmniLMMConfig.model_type, OmniLMMConfig, exist_ok=True)
    AutoModelForImageTextToText.register(OmniLMMConfig, OmniLMMForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(OmniLMMConfig, OmniLMMProcessor, exist_ok=True)
