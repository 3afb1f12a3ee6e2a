"""Lines of errors, whatever they quote."""

from mpi_spp.errors import UserError


def test_a_line_is_one_line_that_a_terminal_shows() -> None:
    said = str(UserError("--model: \x1b[31m\n'caf\udce9' é 😀\x00 is none"))
    assert said == r"--model: \x1b[31m 'caf\udce9' é 😀\x00 is none"


def test_a_long_line_keeps_its_beginning_and_what_to_do() -> None:
    said = str(UserError(f"--sizes: {'9' * 100_000} is too large; give less"))
    assert len(said) <= 505
    assert said.startswith("--sizes: 999")
    assert said.endswith("9 is too large; give less")
