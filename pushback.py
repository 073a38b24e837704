"""Starts the `pushback` command, so that Ctrl-C is one line even while the libraries load and when all is done."""

import signal
import sys


def main() -> int:
    """Runs `pushback_lib.cli.main`; returns its exit code, or 130 where it was stopped before it began."""
    try:
        from pushback_lib.cli import main

        return main()
    except KeyboardInterrupt:
        print("pushback: Stopped.", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # from here on there is nothing left to stop


if __name__ == "__main__":
    sys.exit(main())
