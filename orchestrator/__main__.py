"""``python -m orchestrator`` is ``pas``."""

from orchestrator.cli import main

if __name__ == "__main__":
    main()
