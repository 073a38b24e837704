"""The one error type that reaches a user; knows nothing about what failed."""


class PushbackError(Exception):
    """What happened, with the value; then what to do next.

    The command line prints the message without a traceback and exits with 2.
    """
