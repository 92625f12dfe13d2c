"""The files of ``conf/`` and ``--params`` together: parameters of use, or a message with file and line."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kedro.config import MissingConfigException

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import Parameters, validate_parameters
from rlaifv_kedro.params.command_line import read
from rlaifv_kedro.runs.configuration import Configuration

ROOT = Path(__file__).parents[2]
GLOBALS = "seed: 0\n"
SEED = "${runtime_params:seed, ${globals:seed}}"
PARAMETERS = f"seed: {SEED}\ntraining:\n  beta: 0.5\nfeedback:\n  splitter: miniature\n"
CATALOG = f"pool:\n  type: pandas.CSVDataset\n  filepath: data/seed_{SEED}/pool.csv\n"


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A small ``conf/`` with the environment ``small``."""
    for name, text in {
        "base/globals.yml": GLOBALS,
        "base/parameters.yml": PARAMETERS,
        "base/catalog.yml": CATALOG,
        "small/parameters.yml": "training: {epochs: 1}\n",
        "deepspeed/zero2.json": "{}",
    }.items():
        (tmp_path / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / name).write_text(text)
    return tmp_path / "conf"


def loaded(conf: Path, params: dict[str, Any] | None = None, env: str = "small") -> Parameters:
    """The parameters, as a run reads them."""
    options = {"base_env": "base", "default_run_env": "local", "merge_strategy": {"parameters": "soft"}}
    loader = Configuration(conf, env, params, **options)
    loader["catalog"]
    return validate_parameters(loader["parameters"])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("training:\n\tbeta: 1\n", [", line 2: this is no YAML", r"'\t'", "indented with blanks"]),
        ("training: {beta: 1\n", [", line 2: this is no YAML", "expected ',' or '}'"]),
        ("a: 1\nb: !!python/object/apply:os.system [ls]\n", [", line 2:", "python/object/apply:os.system"]),
        ("loop: {iterations: 1}\nloop: {iterations: 2}\n", [", line 2:", "duplicate key loop"]),
        ("loop: {}\n---\nloop: {}\n", [", line 2:", "another document"]),
        ("training:\n  beta: 1\0\n", [", line 2:", "special characters"]),
        (b"# one\n# caf\xe9\n", [", line 2: this is not UTF-8 text"]),
        (b"\xff\xfet\0r\0", [", line 1: this is not UTF-8 text"]),
        ("[1, 2]\n", [" is a list. Write names with their values"]),
        ("3\n", ["Invalid loaded object type: int"]),
        ("a: &x [*x]\n", ["recursion"]),
        ("seed: 1" + "0" * 5000, ["4300 digits"]),
        ("loop:\n  iterations: ???\n", ["loop.iterations: `???` is no value"]),
        ("training: [1]\n", ["Cannot merge DictConfig with ListConfig"]),
        ("training: {beta: '${nope.x}'}\n", [": training.beta: Interpolation key 'nope.x' not found"]),
        (
            "training: {beta: '${training.epochs}', epochs: '${training.beta}'}\n",
            ["training.beta: Recursive"],
        ),
        ("training: {beta: '${'}\n", ["'${'"]),
        ("training: {beta: '${globals:nope}'}\n", [": training.beta: Globals key 'nope' not found"]),
        (
            "training: {beta: '${oc.env:HOME}'}\n",
            [": training.beta: environment variables are read in creden"],
        ),
    ],
)
def test_a_damaged_file_is_named_with_the_line_or_the_parameter(
    conf: Path, text: str | bytes, parts: list[str]
) -> None:
    file = conf / "small/parameters.yml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as refused:
        loaded(conf)
    for part in (str(file), *parts):
        assert part in refused.value.message


@pytest.mark.parametrize("name", ["base/globals.yml", "base/catalog.yml", "small/catalog_more.yml"])
@pytest.mark.parametrize("text", ["a: [\n", "- a\n"])
def test_every_kind_of_file_is_read_by_the_same_rules(conf: Path, name: str, text: str) -> None:
    (conf / name).write_text(text)
    with pytest.raises(UserError, match=name):
        loaded(conf)


def test_two_files_that_say_the_same_are_named(conf: Path) -> None:
    (conf / "small/parameters_more.yml").write_text("training: {epochs: 2}\n")
    with pytest.raises(UserError, match=r"^Duplicate keys found in .*training\.epochs$"):
        loaded(conf)


def test_a_byte_order_mark_and_an_empty_file_change_nothing(conf: Path) -> None:
    (conf / "small/parameters.yml").write_bytes(b"\xef\xbb\xbftraining: {epochs: 2}\n")
    (conf / "small/parameters_empty.yml").write_text("# nothing yet\n")
    assert loaded(conf).training.epochs == 2


def test_a_word_that_yaml_takes_for_something_else_is_told_to_be_quoted(conf: Path) -> None:
    (conf / "small/parameters.yml").write_text("feedback: {yes_words: [yes, Yes], no_words: ['no']}\n")
    with pytest.raises(UserError, match="feedback.yes_words.0=True: .* put it in quotes"):
        loaded(conf)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.beta=???", "--params: training.beta: `...` is no value"),
        ("training.beta=${nope.x}", "--params: training.beta: Interpolation key 'nope.x' not found"),
        (
            "feedback.question_template=${question}?",
            "--params: feedback.question_template: Interpolation key",
        ),
        ("models.policy.path=${oc.env:HOME}", "--params: models.policy.path: environment variables are read"),
    ],
)
def test_what_omegaconf_would_read_into_a_parameter_is_refused(conf: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        loaded(conf, read([text]))


@pytest.mark.parametrize("env", ["nope", "deepspeed", "../conf/small", "small/", "Small"])
def test_an_environment_that_there_is_not_is_refused_with_those_that_there_are(conf: Path, env: str) -> None:
    with pytest.raises(UserError, match=f"--env {env}: .*: base, local, small"):
        loaded(conf, env=env)


def test_the_environment_of_this_machine_may_be_missing_or_damaged(conf: Path) -> None:
    with pytest.raises(MissingConfigException, match="conf/local"):
        loaded(conf, env="local")
    (conf / "local").mkdir()
    assert loaded(conf, env="local").training.beta == 0.5
    (conf / "local/parameters.yml").write_text("a: [\n")
    with pytest.raises(UserError, match=r"local/parameters.yml, line 2"):
        loaded(conf, env="local")


@pytest.mark.parametrize("name", ["run [1]", "{x}", "a]b"])
def test_a_folder_that_kedro_takes_for_a_pattern_is_refused(conf: Path, name: str) -> None:
    moved = conf.parent / name / "conf"
    shutil.copytree(conf, moved)
    with pytest.raises(UserError, match="takes the .* for a pattern. Rename the folder"):
        loaded(moved)


@pytest.mark.parametrize("name", ["my project é 项目", "a%20b#c", "it's", "a=b,c", "run*", "~x"])
def test_any_other_folder_will_do(conf: Path, name: str) -> None:
    moved = conf.parent / name / "conf"
    shutil.copytree(conf, moved)
    assert loaded(moved).training.epochs == 1


def test_a_kind_of_files_that_kedro_does_not_know_stays_a_key_error(conf: Path) -> None:
    """As plugins, which ask for theirs, expect it."""
    with pytest.raises(KeyError):
        Configuration(conf, "small", base_env="base", default_run_env="local")["mlflow"]


NAMES = sorted(Parameters.model_fields) + [
    "training.beta",
    "training.lora.rank",
    "models.labeler",
    "sed",
    "a b",
    "",
]
YAML_LIKE = st.text(st.sampled_from("ab01 :,-'\"[]{}()#$?&*!|>%@`~\\\n\t\0é\u2028=._"), max_size=40)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=8)
    | YAML_LIKE,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, for many tries."""
    folder = tmp_path_factory.mktemp("fuzz") / "conf"
    (folder / "base").mkdir(parents=True)
    (folder / "small").mkdir()
    (folder / "base/globals.yml").write_text(GLOBALS)
    (folder / "base/parameters.yml").write_text(PARAMETERS)
    (folder / "base/catalog.yml").write_text(CATALOG)
    return folder


def understood_or_refused(conf: Path, params: dict[str, Any] | None = None) -> None:
    """Anything else than a result or the project's own error fails the test."""
    try:
        parameters = loaded(conf, params)
    except UserError as error:
        assert error.message.strip()
    else:
        assert math.isfinite(parameters.training.beta)


@settings(max_examples=100)
@given(content=st.binary(max_size=60) | YAML_LIKE.map(str.encode))
def test_fuzz_files_of_any_bytes(shared: Path, content: bytes) -> None:
    (shared / "small/parameters.yml").write_bytes(content)
    understood_or_refused(shared)


@settings(max_examples=100)
@given(
    names=st.lists(st.sampled_from(NAMES) | YAML_LIKE, min_size=1, max_size=3),
    values=st.lists(YAML_LIKE, min_size=3, max_size=3),
)
def test_fuzz_params_of_any_text(shared: Path, names: list[str], values: list[str]) -> None:
    (shared / "small/parameters.yml").write_text("")
    try:
        params = read([",".join(f"{name}={value}" for name, value in zip(names, values))])
    except UserError:
        return
    understood_or_refused(shared, params)


@settings(max_examples=100)
@given(params=st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), VALUES, max_size=3))
def test_fuzz_params_from_python(shared: Path, params: dict[str, Any]) -> None:
    """As a notebook gives them to a session."""
    (shared / "small/parameters.yml").write_text("")
    understood_or_refused(shared, params)


@pytest.mark.parametrize(
    ("file", "text", "name"),
    [
        (
            "small/parameters.yml",
            "models: {labeler: {url: 'http://user:hidden@host/v1'}}\n",
            "models.labeler",
        ),
        ("base/catalog.yml", CATALOG + "  url: https://host/pool.csv?sig=hidden\n", "pool.url"),
        ("base/catalog.yml", CATALOG + "  urls: [https://a/b, https://t:hidden@host/c]\n", "pool.urls"),
        ("base/globals.yml", GLOBALS + "from: s3://hidden:hidden@bucket/x\n", "from"),
        (None, {"training": {"launch": {"prefix": "env WANDB_API_KEY=hidden torchrun"}}}, "training.launch"),
        (None, {"judge": {"prices": "https://host/?x=1&api_key=hidden"}}, "judge.prices"),
    ],
)
def test_an_address_with_a_secret_is_refused(conf: Path, file: str | None, text: Any, name: str) -> None:
    if file:
        (conf / file).write_text(text)
    with pytest.raises(
        UserError, match=rf"{file or '--params'}: {name}.* holds (a secret|an address)"
    ) as refused:
        Configuration(conf, "small", {} if file else text, base_env="base")["globals"]
        loaded(conf, {} if file else text)
    assert "hidden" not in str(refused.value) and "api_key_variable" in str(refused.value)


def test_what_credentials_hold_is_kept_out_of_messages(conf: Path) -> None:
    (conf / "small/credentials.yml").write_text(
        "store: {client_kwargs: {password: of-the-store-17}, retries: 3}\n"
    )
    assert Configuration(conf, "small", base_env="base")["credentials"]["store"]["retries"] == 3
    assert "of-the-store-17" not in str(UserError("login failed: of-the-store-17"))
