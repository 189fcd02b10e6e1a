"""Entry point of the command line, also for `python -m optadvise`."""

import gc
import sys

from optadvise.core.start import remove_current_folder, remove_python_path_entries

# Before other imports, which would find modules there.
if __name__ == "__main__":
    remove_current_folder()
else:  # imported by the installed program
    remove_python_path_entries()

# A command keeps nearly all that it allocates and ends within a second; collecting would take a twentieth of that.
gc.set_threshold(50_000)

try:
    from optadvise.cli.app import main
except KeyboardInterrupt:  # Ctrl-C at the start; `main` handles it later
    sys.stderr.write("optadvise: interrupted\n")
    sys.exit(130)

if __name__ == "__main__":
    main()
