"""The command: `python -m dds funnel` trains a sampler, reports on it and draws it."""

import sys


def main() -> None:
    """Runs the command, with its compiled programs kept between runs; what it lacks is said in one line."""
    try:
        from dds.cli.main import main as run
        from dds.compiling import keep
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}: pip install 'dds-jax[cli]' brings what the command needs.")
    keep()
    run()


if __name__ == "__main__":
    main()
