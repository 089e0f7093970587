"""The one exception that is meant for the reader: a line that names the thing and says what to do."""


class UserError(Exception):
    """Bad input or a missing part. Stages and commands print its message alone, as one line, and exit with status 1."""
