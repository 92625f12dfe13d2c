"""Why a server ended, told from what vLLM 0.32 and the guard wrote when it did."""

import pytest

from rlaifv_kedro.models.serving.log import why_it_ended

# Lines of every start, which tell nothing, though one of them names an error.
USUAL = """\
WARNING 11-27 00:47:50 [importing.py:75] Triton is installed, but doesn't include CPU backend. Disabling Triton.
(APIServer pid=1) WARNING 11-27 00:48:57 [system_utils.py:255] Found ulimit of 20000 and failed to increase with \
error current limit exceeds maximum limit. This can cause fd limit errors like `OSError: [Errno 24] Too many open \
files`. Consider increasing with ulimit -n
(EngineCore pid=2) INFO 11-27 00:47:00 [core.py:1] vLLM is starting"""
INITIALIZATION = """
  File "vllm/v1/engine/utils.py", line 1431, in wait_for_engine_startup
    raise RuntimeError(
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1 leaked \
shared_memory objects to clean up at shutdown
  warnings.warn('resource_tracker: There appear to be %d '
[guard] the server ended with exit status 1"""


@pytest.mark.parametrize(
    ("log", "told", "remedy"),
    [
        (
            """
(Worker pid=20915) ERROR 11-27 00:47:07 [multiproc_executor.py:953]     raise ValueError(msg)
(Worker pid=20915) ERROR 11-27 00:47:07 [multiproc_executor.py:953] ValueError: There is no module or parameter \
named 'vision_tower.embeddings' in LlavaForConditionalGeneration. The available parameters belonging to vision_tower \
(CLIPVisionModel) are: {'vision_tower.vision_model.encoder.layers.0.layer_norm1.bias'}"""
            + INITIALIZATION,
            "ValueError: There is no module or parameter named 'vision_tower.embeddings' in",
            "vLLM knows the weights by other names",
        ),
        (
            """
RuntimeError: Worker failed with error 'Available memory on node 0 (14.84/23.54 GiB) on kv cache allocation is less \
than requested memory for kv (900.0 GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU \
memory used by other processes.', please check the stack trace above for the root cause"""
            + INITIALIZATION,
            "RuntimeError: Worker failed with error 'Available memory on node 0",
            "on a CPU VLLM_CPU_KVCACHE_SPACE in serving.environment",
        ),
        (
            """
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, User-specified max_model_len (9999) is greater than the derived max_model_len
    For further information visit https://errors.pydantic.dev/2.14/v/value_error""",
            "Value error, User-specified max_model_len (9999) is greater than the derived",
            "Look at serving.engine_options",
        ),
        (
            "\n                     [model_tag]\napi_server.py: error: unrecognized arguments: --nonsense",
            "api_server.py: error: unrecognized arguments: --nonsense.",
            "Look at serving.engine_options",
        ),
        (
            """
(EngineCore pid=9) ERROR 11-27 00:47:07 [core.py:9] ValueError: Free memory on device cuda:0 (3.9/79.2 GiB) on \
startup is less than desired GPU memory utilization (0.92, 72.9 GiB). Decrease GPU memory utilization or reduce GPU \
memory used by other processes."""
            + INITIALIZATION,
            "ValueError: Free memory on device cuda:0",
            "gpu-memory-utilization in serving.engine_options",
        ),
        ("\n[guard] the server was ended by SIGKILL", "ended by SIGKILL", "no memory left (dmesg)"),
        (
            "\nSomethingNewError: of a later version" + INITIALIZATION,
            "SomethingNewError: of a later version",
            "",
        ),
        ("\nno word of an error", "its log ends with:\n", "no word of an error"),
    ],
)
def test_the_telling_line_and_what_to_do(log: str, told: str, remedy: str) -> None:
    why = why_it_ended(USUAL + log)
    assert why.startswith(told) or why.startswith(f"[guard] the server was {told}")
    assert remedy in why
