"""Entry point of the command line, also for `python -m optadvise`."""

import gc

if __name__ == "__main__":
    from optadvise.core.start import remove_current_folder

    remove_current_folder()  # before other imports, which would find modules there

# A command keeps nearly all that it allocates and ends within a second; collecting would take a twentieth of that.
gc.set_threshold(50_000)

from optadvise.cli.app import main  # noqa: E402, imported under the higher threshold

if __name__ == "__main__":
    main()
