"""All checks of a run, in the order in which a person mends what they find."""

from pathlib import Path
from typing import Any

from kedro.framework.project import pipelines
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from rlaifv_kedro.benchmarks import suite
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import (
    BackendParams,
    OpenAIParams,
    Parameters,
    TransformersParams,
    VLLMParams,
    WeightsParams,
)
from rlaifv_kedro.params.current import current
from rlaifv_kedro.pipelines.benchmarks.nodes import benchmarks_with, score_benchmark
from rlaifv_kedro.preflight import machine, sizes
from rlaifv_kedro.preflight.checkpoints import Role, look_at
from rlaifv_kedro.preflight.finding import Finding
from rlaifv_kedro.preflight.inputs import Inputs, check_inputs
from rlaifv_kedro.prompts import PromptFile
from rlaifv_kedro.runs.messages import user_message
from rlaifv_kedro.runs.session import load_context
from rlaifv_kedro.training.distributed import deepspeed_config

# Nodes' functions, by the model they load.
POLICY = {
    "sample_candidates",
    "compute_reference",
    "train_policy",
    "measure_checkpoints",
    "answer_prompts",
    "answer_probes",
}
POLICY |= {"compute_rewards", "sample_answers", "answer_benchmark"}
LABELER = {"verify_claims", "score"}
SPLITTER = {"divide"}
JUDGE = {"judge_benchmark"}

FLASH_ATTENTION = (
    "pip install flash-attn; or set attn_implementation: sdpa, which shares prefixes and is faster here."
)
VLLM = (
    "Install it in an environment of its own: pip install 'rlaifv_kedro[vllm]'; or serve the model there "
    "and take backend: openai."
)

Sizes = dict[str, sizes.ModelSize]


def check_run(project: Path, env: str | None, params: dict[str, Any], names: list[str]) -> list[Finding]:
    """Look for everything that ``kedro run --env ENV --params ... --pipelines ...`` will need.

    Args:
        project: The project's folder. Relative paths of models and images count from the working folder, as
            in a run.
        params: Runtime parameters.
        names: Pipelines.

    Returns:
        Findings, also of what is there. If the parameters are no good nothing else can be looked at.
    """
    try:
        parameters, catalog, pipeline = configured(project, env, params, names)
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        return [
            Finding(
                False,
                "the configuration can't be used; nothing else was looked at",
                f"conf/{env or 'base'}",
                message,
            )
        ]
    stages = {node.func.__name__ for node in pipeline.nodes}
    findings = [
        Finding(True, "the parameters are valid", f"conf/{env or 'base'}"),
        *check_combinations(parameters, stages),
    ]
    inputs = check_inputs(pipeline, catalog, prompts_needed(parameters), env)
    findings += inputs.findings
    known: Sizes = {}
    for role in roles_of(parameters, stages, inputs):
        found, size = look_at(role)
        findings += found
        if size is not None:
            known[role.name] = size
    findings += check_services(parameters, stages, inputs) + check_scorers(parameters, pipeline)
    return findings + check_resources(
        parameters, stages, known, inputs.image_bytes, iterations_of(pipeline), project / "data"
    )


def configured(
    project: Path, env: str | None, params: dict[str, Any], names: list[str]
) -> tuple[Parameters, DataCatalog, Pipeline]:
    """Parameters, catalog and nodes of ``kedro run --env ENV --params ... --pipelines ...``."""
    context = load_context(project, env, params)
    return current().parameters, context.catalog, _chosen(names)


def iterations_of(pipeline: Pipeline) -> int:
    """How many iterations its nodes go through: those of the loop, or the one of a stage run."""
    return (
        len({name.partition(".")[0] for name in pipeline.all_outputs() if name.startswith("iteration_")}) or 1
    )


def _chosen(names: list[str]) -> Pipeline:
    """The pipelines together.

    Raises:
        UserError: There is no such pipeline.
    """
    pipelines.set_requested(None)
    unknown = [name for name in names if name not in pipelines]
    if unknown:
        raise UserError(
            f"There is no pipeline {', '.join(unknown)}. Choose of {', '.join(sorted(pipelines))}."
        )
    return sum((pipelines[name] for name in names), Pipeline([]))


def prompts_needed(parameters: Parameters) -> int:
    """Rows that the pool must have: see ``draw_prompts``."""
    return max(parameters.iteration, parameters.loop.iterations) * parameters.data_generation.prompts


def check_combinations(parameters: Parameters, stages: set[str]) -> list[Finding]:
    """Parameters that are valid each by itself, and would stop the run together, some of them after hours."""
    training, feedback, models = parameters.training, parameters.feedback, parameters.models
    findings = []

    def refuse(what: str, where: str, remedy: str) -> None:
        findings.append(Finding(False, what, where, remedy))

    if "train_policy" in stages:
        try:
            deepspeed_config(training)
        except UserError as error:
            refuse(error.message, "training.deepspeed", "")
        if parameters.compute.dtype == "float16" and parameters.compute.device == "cpu":
            refuse("float16 can't be trained on a CPU", "compute.dtype", "Choose float32 or bfloat16.")
    served = feedback.labeler == "fixed" and models.labeler.backend != "transformers"
    if "score" in stages and feedback.scoring == "answer" and served:
        refuse(
            "only a labeler in this process can score whole answers",
            "feedback.scoring",
            "Set models.labeler.backend: transformers.",
        )
    if stages & JUDGE and models.judge is None:
        refuse(
            "no judge is named",
            "models.judge",
            "Set backend: openai with url and model, or path; docs/judges.md.",
        )
    if "divide" in stages and feedback.splitter == "llm":
        prompts = {
            "divide_prompt": (feedback.divide_prompt, ["question", "answer"]),
            "question_prompt": (feedback.question_prompt, ["claims"]),
        }
        for name, (path, marks) in prompts.items():
            try:
                if path is not None:
                    PromptFile.read(path, marks)
            except UserError as error:
                refuse("the splitter's prompt can't be used", f"feedback.{name}", error.message)
        for name, model in (("splitter", models.splitter), ("question_writer", models.question_writer)):
            if isinstance(model, WeightsParams) and model.path is None:
                refuse(
                    f"models.{name} names no model",
                    f"models.{name}.path",
                    "Name a folder or hub name, or a server (backend, url, model).",
                )
    return findings


def roles_of(parameters: Parameters, stages: set[str], inputs: Inputs) -> list[Role]:
    """The models that the run loads in this process, and of which something can be looked at."""
    models, roles = parameters.models, []
    for entry, folder in inputs.checkpoints.items():
        if entry != "labeler" and stages & (
            POLICY | (LABELER if parameters.feedback.labeler == "self" else set())
        ):
            roles.append(
                Role("policy", str(folder), f"the catalog's {entry}", models.policy, inputs.fetch(entry))
            )
    if "answer_benchmark" in stages:
        roles += [
            Role("policy", folder, "evaluation.policy", models.policy)
            for folder in parameters.evaluation.policies()
        ]
    for name, params in serving(parameters, stages).items():
        if isinstance(params, OpenAIParams) or name == "policy":
            continue
        if params.path is not None:
            roles.append(Role(name, params.path, f"models.{name}.path", params, vision=name == "labeler"))
        elif name in inputs.checkpoints:
            roles.append(
                Role(name, str(inputs.checkpoints[name]), f"the catalog's {name}", params, inputs.fetch(name))
            )
    return roles


def serving(parameters: Parameters, stages: set[str]) -> dict[str, BackendParams]:
    """The roles that the run's nodes ask, with how they are loaded or asked."""
    models, feedback = parameters.models, parameters.feedback
    used: dict[str, BackendParams] = {}
    if stages & POLICY or (stages & LABELER and feedback.labeler == "self"):
        used["policy"] = models.policy
    if stages & LABELER and feedback.labeler == "fixed":
        used["labeler"] = models.labeler
    if stages & SPLITTER and feedback.splitter == "llm":
        used["splitter"] = models.splitter
        if models.question_writer is not None:
            used["question_writer"] = models.question_writer
    if stages & JUDGE and models.judge is not None:
        used["judge"] = models.judge
    return used


def check_services(parameters: Parameters, stages: set[str], inputs: Inputs) -> list[Finding]:
    """Servers, and packages that only some options need."""
    findings: list[Finding] = []
    for name, params in serving(parameters, stages).items():
        where = f"models.{name}"
        if isinstance(params, OpenAIParams):
            findings += machine.check_server(name, params)
        if isinstance(params, VLLMParams):
            findings.append(machine.check_package("vllm", f"{where}.backend", VLLM))
        if isinstance(params, TransformersParams) and params.attn_implementation == "flash_attention_2":
            findings.append(
                machine.check_package("flash_attn", f"{where}.attn_implementation", FLASH_ATTENTION)
            )
    wanted: dict[str, list[str]] = {}
    for entry, metadata in inputs.metadata.items():
        for package in metadata.get("packages", ()):
            wanted.setdefault(package, []).append(entry)
    for package, entries in wanted.items():
        findings.append(
            machine.check_package(
                package,
                f"the catalog's {' and '.join(entries)}",
                f"pip install {package}; docs/recipes.md says which build.",
            )
        )
    return findings


def check_scorers(parameters: Parameters, pipeline: Pipeline) -> list[Finding]:
    """The spaCy pipelines that some benchmarks are scored with."""
    scored = benchmarks_with(score_benchmark, pipeline)
    try:
        suite.refuse_unready((), scored, parameters.benchmarks, parameters.models)
    except UserError as error:
        return [Finding(False, "a benchmark can't be scored", "benchmarks", error.message)]
    return [Finding(True, f"what scores {', '.join(scored)} is there", "benchmarks")] if scored else []


def check_resources(
    parameters: Parameters, stages: set[str], known: Sizes, image_bytes: float, iterations: int, data: Path
) -> list[Finding]:
    """GPU, its memory stage by stage, and the disk."""
    findings, gpus, device = [], machine.gpus(), parameters.compute.device
    if any(isinstance(params, WeightsParams) for params in serving(parameters, stages).values()):
        findings.append(
            machine.check_device(device, gpus, max((size.parameters for size in known.values()), default=0))
        )
        if device == "cuda" or (device == "auto" and gpus):
            for stage, needed, params in memory_needs(parameters, stages, known):
                findings.append(
                    machine.check_memory(
                        stage, needed, gpus, spread=all(getattr(p, "device_map", None) for p in params)
                    )
                )
    parts = sizes.run_disk(parameters, known.get("policy"), image_bytes, iterations, stages)
    if parts:
        untold = "train_policy" in stages and "policy" not in known
        findings.append(
            machine.check_disk(
                parts,
                data,
                "Checkpoints are not counted: the policy's size can't be told before it is there." * untold,
            )
        )
    return findings


def memory_needs(
    parameters: Parameters, stages: set[str], known: Sizes
) -> list[tuple[str, int, list[WeightsParams]]]:
    """(stage, bytes, the models' parameters) of the stages whose models' sizes are known."""
    generation, feedback, models, compute = (
        parameters.data_generation,
        parameters.feedback,
        parameters.models,
        parameters.compute,
    )
    needs = []

    def dtype(params: WeightsParams) -> str:
        return params.dtype or compute.dtype

    policy = known.get("policy")
    if policy and "sample_candidates" in stages:
        needs.append(
            ("sampling", sizes.sampling_memory(policy, generation, dtype(models.policy)), [models.policy])
        )
    asked = {
        name: params
        for name, params in serving(parameters, stages).items()
        if name in ("splitter", "question_writer") and name in known
    }
    if asked:
        loaded = [(known[name], dtype(params)) for name, params in asked.items()]
        needed = sizes.dividing_memory(
            loaded, feedback.splitter_batch_size, feedback.splitter_max_new_tokens, generation.max_new_tokens
        )
        needs.append(("dividing", needed, list(asked.values())))
    role = "policy" if feedback.labeler == "self" else "labeler"
    labeler = known.get(role)
    if labeler and "verify_claims" in stages:
        params = getattr(models, role)
        needs.append(
            (
                "labeling",
                sizes.labeling_memory(
                    labeler, feedback.batch_size, compute.max_tokens_per_pack, dtype(params)
                ),
                [params],
            )
        )
    if policy and "train_policy" in stages:
        needs.append(
            (
                "training",
                sizes.training_memory(policy, parameters.training, generation.max_new_tokens, compute.dtype),
                [TransformersParams()],
            )
        )
    return needs
