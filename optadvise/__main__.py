"""Entry point of the command line, also for `python -m optadvise`."""

import gc
import sys

if __name__ == "__main__":
    from optadvise.core.start import remove_current_folder

    remove_current_folder()  # before other imports, which would find modules there

# A command keeps nearly all that it allocates and ends within a second; collecting would take a twentieth of that.
gc.set_threshold(50_000)

try:
    from optadvise.cli.app import main
except KeyboardInterrupt:  # Ctrl-C at the start; `main` handles it later
    sys.stderr.write("optadvise: interrupted\n")
    sys.exit(130)

if __name__ == "__main__":
    main()
