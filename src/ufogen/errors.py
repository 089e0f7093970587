"""What ends a run with one line for the reader: an error of the input, or a signal that asks for the end."""


class UserError(Exception):
    """Bad input or a missing part. Stages and commands print its message alone, as one line, and exit with status 1."""


class Stopped(KeyboardInterrupt):
    """SIGTERM or Ctrl-C, by its number. Stages print its message alone and exit with the status that a shell expects."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.number = number
