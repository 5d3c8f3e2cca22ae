"""Personas as they are written down, and drawn."""

import doctest
from pathlib import Path

import pytest

import iterppo.personas
from iterppo.config import ExportConfig, RolloutConfig
from iterppo.config_loading import load_config
from iterppo.errors import UsageError
from iterppo.personas import Persona, persona_at, probability_of, read_personas
from iterppo.pipeline import sections

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "configs" / "personas.toml"
BOLD = Persona(name="bold", prompt="Be bold.", probability=0.25)
SHY = Persona(name="shy", prompt="Be shy.", probability=0.5)


def test_the_examples_of_the_module_are_right() -> None:
    assert doctest.testmod(iterppo.personas).failed == 0


@pytest.mark.parametrize(
    ("uniform", "name"),
    [(0.0, "bold"), (0.2499, "bold"), (0.25, "shy"), (0.7499, "shy"), (0.75, None), (0.9999, None)],
)
def test_a_persona_owns_as_much_of_the_unit_interval_as_its_probability(
    uniform: float, name: str | None
) -> None:
    drawn = persona_at([BOLD, SHY], uniform)

    assert (drawn.name if drawn else None) == name


def test_probabilities_are_told_by_name_and_the_rest_is_plain() -> None:
    assert [probability_of([BOLD, SHY], name) for name in ("bold", "shy", None)] == [
        0.25,
        0.5,
        0.25,
    ]
    assert persona_at([], 0.0) is None
    assert probability_of([], None) == 1


def test_the_file_of_the_repository_explores_what_it_says() -> None:
    personas = read_personas(FILE)

    assert {persona.style for persona in personas} == {
        *("warm", "formal", "short", "long", "emoji", "question", "statement", "leads", "follows")
    }
    assert all(persona.prompt for persona in personas)
    assert probability_of(personas, None) == pytest.approx(0.28)


def test_a_configuration_holds_the_personas_themselves(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[[persona]]\nname = "bold"\nprompt = "Be bold."\nprobability = 0.25\n')
    by_file = resolved(f"rollout.personas={file}")
    by_table = resolved('rollout.personas=[{name="bold", prompt="Be bold.", probability=0.25}]')

    assert by_file.personas == by_table.personas == [BOLD]
    assert RolloutConfig.model_validate(by_file.model_dump(mode="json")) == by_file
    assert resolved().personas == "policy"
    assert resolved("rollout.personas=none").personas == "none"
    file.write_text(file.read_text().replace("0.25", "0.5"))
    assert resolved(f"rollout.personas={file}") != by_file


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(None, "there is no file FILE", id="no file"),
        pytest.param("x = ", "FILE: Invalid value (at end of document)", id="no TOML"),
        pytest.param("[persona]\n", "FILE: holds tables [[persona]] and nothing else", id="table"),
        pytest.param(
            "[[personas]]\n", "FILE: holds tables [[persona]] and nothing else", id="plural"
        ),
        pytest.param(
            '[[persona]]\nname = "a"\n',
            "FILE: persona 1.probability: Field required",
            id="no probability",
        ),
        pytest.param(
            '[[persona]]\nname = "a"\nprobability = 0\n',
            "FILE: persona 1.probability: Input should be greater than 0",
            id="never",
        ),
        pytest.param(
            '[[persona]]\nname = "a"\nprobability = 0.1\ntone = "x"\n',
            "FILE: persona 1.tone: Extra inputs are not permitted",
            id="unknown key",
        ),
        pytest.param(
            '[[persona]]\nname = "a"\nprobability = 0.1\n' * 2,
            "FILE: two personas are called 'a'",
            id="twice",
        ),
        pytest.param(
            '[[persona]]\nname = "a"\nprobability = 0.7\n'
            '[[persona]]\nname = "b"\nprobability = 0.6\n',
            "FILE: the probabilities of the personas sum to 1.3, more than 1",
            id="more than all",
        ),
    ],
)
def test_what_is_no_file_of_personas_is_refused_in_one_line(
    content: str | None, expected: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    if content is not None:
        file.write_text(content)

    with pytest.raises(UsageError) as raised:
        load_config(
            "export", ExportConfig, settings=[f"export.personas={file}"], sections=sections()
        )
    message = str(raised.value)
    assert message == f"--set: export.personas: {expected.replace('FILE', str(file))}."
    assert "\n" not in message


def resolved(*settings: str) -> RolloutConfig:
    found = load_config("rollout", RolloutConfig, settings=settings, sections=sections())
    assert isinstance(found, RolloutConfig)
    return found
