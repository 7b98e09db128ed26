"""The entry point of `azimuth`, and the one place where an error becomes a line on stderr and an exit code.

Exit codes: 0 done (also when there was nothing to do); 1 it could not be done; 2 the command line is wrong;
130 Ctrl-C, 143 SIGTERM, 129 SIGHUP. `demo` exits 1 if a promise was broken, `bench` only if it could not
measure. Never a traceback, unless AZIMUTH_DEBUG is set.

The commands (cli/commands.py) take a while to import. So nothing is imported here at the top that is not in
every interpreter, and a signal that comes meanwhile is obeyed as soon as they are there.
"""

import os
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
QUIET_S = 10.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ending:
    """What ends a command from outside: an exception, so that whatever is under way is undone on the way out.

    1. Only the first signal counts. Those of an impatient user behind it do not disturb the undoing.
    2. After `quiet_s` the next one counts again: an exception can get lost, in a callback of C code say.
    3. A signal that was ignored when we were started stays so (`nohup`).
    """

    def __init__(self) -> None:
        self.quiet_s = QUIET_S
        self._quiet_until = 0.0
        self._ready = False
        self._came: int | None = None

    def listen(self) -> None:
        """From now on nothing is lost."""
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                signal.signal(number, self.on_signal)

    def ready(self) -> None:
        """From now on a signal raises; one that came before does so at once."""
        self._ready = True
        if self._came is not None:
            self.on_signal(self._came, None)

    def over(self) -> None:
        """What was to be undone is undone. However impatient somebody is, the exit code shall be ours."""
        if self._came is not None:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._ready:
            self._came = number if self._came is None else self._came
            return
        if time.monotonic() < self._quiet_until:
            return
        self._quiet_until = time.monotonic() + self.quiet_s
        self._came = number
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def complain(text: str) -> None:
    print(f"azimuth: {' '.join(text.split())}", file=sys.stderr)


def main() -> NoReturn:
    """Run a command; turn whatever goes wrong into one line and an exit code."""
    ending = Ending()
    ending.listen()
    try:
        code = run_command(ending)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    finally:
        ending.over()
    sys.exit(code)


def run_command(ending: Ending) -> int:
    import click

    from cli.commands import cli
    from cluster.errors import AzimuthError

    asked_for_help = getattr(click.exceptions, "NoArgsIsHelpError", ())  # click 8.2
    ending.ready()
    try:
        code = cli.main(prog_name="azimuth", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Abort:
        return EXIT_INTERRUPTED
    except asked_for_help as error:
        error.show()
        return EXIT_USAGE
    except click.ClickException as error:
        complain(error.format_message())
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output has left (`| head`): nothing to say, and nothing may be said at exit
        # either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (AzimuthError, OSError) as error:
        complain(str(error))
        return EXIT_FAILED
    except Exception as error:
        if os.environ.get("AZIMUTH_DEBUG"):
            import traceback

            traceback.print_exc()
        complain(f"this is a bug: {type(error).__name__}: {error} (AZIMUTH_DEBUG=1 shows where)")
        return EXIT_FAILED


if __name__ == "__main__":
    main()
