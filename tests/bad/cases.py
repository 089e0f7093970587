"""The generated cases, by kind of input."""

from __future__ import annotations

from tests.bad.files import files, outputs
from tests.bad.harness import Case
from tests.bad.parameters import command_line, composed, parameters, trainings
from tests.bad.pictures import captions, images


def cases() -> list[Case]:
    """All of them, none twice."""
    made = [*parameters(), *composed(), *command_line(), *trainings(), *files(), *images(), *captions(), *outputs()]
    return list({(str(case), case.arguments): case for case in made}.values())
