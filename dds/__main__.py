"""The command: `python -m dds funnel` trains a sampler, reports on it and draws it."""

import sys


def main() -> None:
    """Runs the command; what it lacks is said in one line."""
    try:
        from dds.cli.main import main as run
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}: pip install 'dds-jax[cli]' brings what the command needs.")
    run()


if __name__ == "__main__":
    main()
