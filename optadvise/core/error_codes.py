"""Stable codes of errors: scripts and tests compare these, people read the messages."""

from __future__ import annotations

from enum import Enum


class ErrorCode(str, Enum):
    """Stable code of an error, with a description for `docs/errors.md`.

    Example:
        >>> ErrorCode("unknown-name").description
        'No optimizer, schedule, rule, architecture, GPU or claim has this name.'
    """

    description: str

    def __new__(cls, value: str, description: str) -> ErrorCode:
        """Create a member whose value is the code alone."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.description = description
        return member

    # The command line and its inputs.
    UNKNOWN_OPTION = "unknown-option", "The command has no such option or subcommand."
    MISSING_OPTION = "missing-option", "A required option, argument or option value is missing."
    OPTION_CONFLICT = "option-conflict", "Two options exclude each other, or one requires another."
    UNKNOWN_CHOICE = "unknown-choice", "The value is not one of the accepted choices."
    UNKNOWN_NAME = "unknown-name", "No optimizer, schedule, rule, architecture, GPU or claim has this name."
    INVALID_NUMBER = "invalid-number", "The text is not a number, count or memory size."
    OUT_OF_RANGE = "out-of-range", "The number is outside the accepted range."
    NOT_DIVISIBLE = "not-divisible", "A batch size or dimension is not a multiple of what it is divided by."
    INVALID_VALUE = "invalid-value", "The value has the wrong form."
    DISABLED_OPTIMIZER = "disabled-optimizer", "A rule layer disables this optimizer."
    NETWORK_CONFLICT = "network-conflict", "An option contradicts the model that another option describes."
    NETWORK_UNKNOWN = "network-unknown", "The options do not determine the size of the model."
    INVALID_NETWORK = "invalid-network", "The dimensions of a model or its config.json are invalid or not supported."
    INVALID_REQUIREMENT = "invalid-requirement", "The text after --require is not a requirement."
    INVALID_WORKLOAD = "invalid-workload", "A workload cannot be loaded, or does not return what its contract requires."
    INVALID_RECOMMENDATION = "invalid-recommendation", "The input is not the JSON of a recommendation."
    IMPORT_NOT_ALLOWED = (
        "import-not-allowed",
        "A rule layer or a sweep file names code that is not on a shipped card and that the user has not allowed.",
    )
    NOT_COMPARABLE = "not-comparable", "Two results were measured under different conditions, or share no optimizer."
    FILE_NOT_FOUND = "file-not-found", "A file or folder does not exist."
    FILE_UNREADABLE = "file-unreadable", "A file exists but cannot be read, or is too large."
    FILE_NOT_WRITABLE = "file-not-writable", "An output cannot be written to this location."
    WRONG_FILE_TYPE = "wrong-file-type", "The file's ending or kind does not match the option."

    # Rule files, result files and sweeps.
    INVALID_SYNTAX = "invalid-syntax", "A file is not valid YAML, JSON or TOML."
    UNKNOWN_KEY = "unknown-key", "A file has a key that its schema does not declare."
    MISSING_KEY = "missing-key", "A file lacks a required key."
    INVALID_ENTRY = "invalid-entry", "An entry of a file has the wrong type, or a value that is not accepted."
    UNKNOWN_REFERENCE = "unknown-reference", "An entry refers to an id that does not exist."
    DUPLICATE_ENTRY = "duplicate-entry", "Two entries of a file have the same id or name."
    RULE_CONFLICT = "rule-conflict", "Two rules apply to the same situation and give different results."
    RULE_GAP = "rule-gap", "No rule applies to a situation."
    RULES_NOT_PROVEN = "rules-not-proven", "The proof of a rule layer fails."

    # This machine.
    MISSING_PACKAGE = (
        "missing-package",
        "A Python package that the command needs is not installed or cannot be imported.",
    )
    MISSING_DEVICE = "missing-device", "This machine lacks the device or driver."
    UNSUPPORTED = "unsupported", "The combination cannot run on this machine or with these versions."
    OUT_OF_MEMORY = "out-of-memory", "The device or the machine has too little memory."
    LIBRARY_ERROR = "library-error", "An optimizer, a model or another library raised an exception."
    WORKER_FAILED = "worker-failed", "A worker process crashed or returned something unreadable."
    WORKER_TIMEOUT = "worker-timeout", "A worker process did not answer in time."
    NOTHING_MEASURED = "nothing-measured", "No optimizer could be measured, or the result has no figures to plot."
    INCONCLUSIVE = "inconclusive", "The measurement cannot decide the question."
    INTERRUPTED = "interrupted", "The user or the system interrupted the command."
    INTERNAL = "internal", "An unexpected error; please report it."
