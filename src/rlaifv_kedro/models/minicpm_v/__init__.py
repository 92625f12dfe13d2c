"""MiniCPM-Llama3-V 2.5 for transformers 5, which has later models of the family only.

The model was itself trained with the method.
"""


def register() -> None:
    """Make transformers' Auto classes know the config, the model, the image processor and the processor.

    Calling it again changes nothing.

    Then ``AutoModelForImageTextToText.from_pretrained(folder)`` and ``AutoProcessor.from_pretrained(folder)``
    load a folder in the layout of the release (``model_type: minicpmv``), and what was saved from it.
    ``trust_remote_code`` is neither needed nor heeded.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

    from rlaifv_kedro.models.minicpm_v.configuration import MiniCPMVConfig
    from rlaifv_kedro.models.minicpm_v.modeling import MiniCPMV
    from rlaifv_kedro.models.minicpm_v.processing import MiniCPMVImageProcessor, MiniCPMVProcessor

    AutoConfig.register(MiniCPMVConfig.model_type, MiniCPMVConfig, exist_ok=True)
    AutoModelForImageTextToText.register(MiniCPMVConfig, MiniCPMV, exist_ok=True)
    AutoImageProcessor.register(
        MiniCPMVConfig, image_processor_classes={"pil": MiniCPMVImageProcessor}, exist_ok=True
    )
    AutoProcessor.register(MiniCPMVConfig, MiniCPMVProcessor, exist_ok=True)
