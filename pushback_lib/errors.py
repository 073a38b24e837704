"""The one error type that reaches a user; knows nothing about what failed."""


class PushbackError(Exception):
    """What happened, with the value; then what to do next.

    The command line prints the message without a traceback and exits with 2; a notebook's cell shows it alone too.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in a cell: the message alone, since the cure is in it and not in our code."""
        return [f"{type(self).__name__}: {self}"]
