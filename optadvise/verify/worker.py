"""The process that audits, or goes on with what another saved: a subject a line in, its findings a line out.

What libraries print cannot get between.
"""

from __future__ import annotations

import json
import os
import sys

from optadvise.verify.subject import Subject


def main() -> int:
    """Answer every line of stdin."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    from optadvise.bench.factory import resolve
    from optadvise.errors import CannotRunHereError
    from optadvise.verify.audit import audit, go_on
    from optadvise.verify.maker import one_thread

    one_thread()
    for line in sys.stdin:
        told = json.loads(line)
        subject = Subject(**told["subject"])
        try:
            made = resolve(subject.path, told["package"])
        except CannotRunHereError as error:
            answer = {"missing": str(error)}
        except Exception as error:  # whatever importing somebody else's code does
            answer = {"missing": f"{subject.path} cannot be imported ({type(error).__name__}: {str(error)[:120]})"}
        else:
            answer = audit(subject, made) if told["run"] is None else go_on(subject, made, told["run"])
        out.write(json.dumps(answer) + "\n")
        out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
