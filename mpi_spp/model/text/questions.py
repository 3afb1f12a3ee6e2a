"""A document and questions about it, as prompts that begin alike."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpi_spp.config import RunConfig
from mpi_spp.errors import UserError
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.text.prompt import text_token_ids
from mpi_spp.system.files import read_text


@dataclass(frozen=True)
class Question:
    """A line of the questions' file, counted from 1, and the ids of the whole prompt."""

    line: int
    text: str
    prompt_ids: list[int]


def read_questions(config: RunConfig, tokenizer: Any | None, directory: Path, model: ModelConfig) -> list[Question]:
    """Every question with the prompt "document, blank line, question", as `generate` would make it of one text.

    Blank lines are skipped, and blanks around a question and at the document's end. Raises UserError where the model
    cannot answer, or where prompts would not share the keys of their beginning.
    """
    if tokenizer is None:
        raise UserError(f"{directory}: has no tokenizer, without which no question can be asked; get its files again")
    document = read_text(f"--document: {config.document}", str(config.document)).rstrip()
    if not document:
        raise UserError(f"--document: {config.document} is empty; give some text")
    text = read_text(f"--questions: {config.questions}", str(config.questions))
    lines = [line.strip() for line in text.split("\n")]
    questions = []
    for number, text in ((number, line) for number, line in enumerate(lines, 1) if line):
        whole = f"{document}\n\n{text}"
        where = f"--questions: line {number}, with the document"
        ids = text_token_ids(config, tokenizer, directory, model, where, whole)
        _check_length(config, ids, model, number)
        questions.append(Question(number, text, ids))
    if not questions:
        raise UserError(f"--questions: {config.questions} holds no question; give one a line")
    if len({one.prompt_ids[0] for one in questions}) > 1:
        raise UserError(f"--document: {config.document} leaves the prompts no token in common; give a longer one")
    return questions


def _check_length(config: RunConfig, prompt_ids: list[int], model: ModelConfig, line: int) -> None:
    length, where = len(prompt_ids), f"--questions: line {line}"
    if length >= model.max_positions:
        raise UserError(
            f"{where}: with the document the prompt has {length} tokens, but {config.model} has"
            f" {model.max_positions} positions; give a shorter one"
        )
    if model.rope.dynamic is not None and length > model.rope.dynamic.max_position_embeddings:
        raise UserError(
            f"{where}: the prompt has {length} tokens, and beyond {model.rope.dynamic.max_position_embeddings}"
            f" {config.model} rotates all keys by the prompt's length: they cannot be shared; use generate"
        )
