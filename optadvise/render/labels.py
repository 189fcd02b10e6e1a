"""Short texts for sizes, ranges, options and values, shared by all renderers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from optadvise.advice.option_values import write_end
from optadvise.core.cards import SHARDING_LABELS, Implementation
from optadvise.core.records import Interval, Situation
from optadvise.core.units import show_bytes, show_number
from optadvise.rule_analysis.inputs_of_point import SHAPE_FACTS
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.records import Fact

NOT_SPECIFIED = "not specified"  # value of an option
DASH = "–"  # for 0 and for unknown values
_SHARDING = {"none": "not sharded", "zero1": "ZeRO-1", "zero2": "ZeRO-2", "zero3": "ZeRO-3"}


def format_sharding(shard: str) -> str:
    """Return what of a run is sharded over its GPUs: `ZeRO-3`, `not sharded`."""
    return _SHARDING.get(shard, shard)


def format_size(size_bytes: int | None, missing: str = DASH) -> str:
    """Return a size; `missing` for 0 and None."""
    return show_bytes(size_bytes) if size_bytes else missing


def format_fits(fits: bool | None, required: int | None, available: int | None) -> str:
    """Return whether a run fits: yes, probably, probably not or no; unknown without both sizes.

    Args:
        fits: None if the available memory is within the interval of the estimate.
        required: Expected bytes without state that can be paged to host memory.

    Example:
        >>> format_fits(True, 1, 2), format_fits(None, 1, 2), format_fits(None, 3, 2), format_fits(None, None, 2)
        ('yes', 'probably', 'probably not', 'unknown')
    """
    if fits is not None:
        return "yes" if fits else "no"
    if required is None or available is None:
        return "unknown"
    return "probably" if required <= available else "probably not"


def format_count(count: int | None) -> str:
    """Return a count with separators; a dash for 0 and None."""
    return f"{count:,}" if count else DASH


def format_range(low: float | None, high: float | None) -> str:
    """Return a typical range, empty where an end is unknown or both are equal.

    Example:
        >>> format_range(6e-5, 1e-3)
        '6e-5 to 1e-3'
    """
    return "" if low is None or high is None or low == high else f"{show_number(low)} to {show_number(high)}"


def format_typical_range(low: float | None, high: float | None) -> str:
    """Return a typical range with its label, empty where an end is not known."""
    typical = format_range(low, high)
    return typical and f"typical range {typical}"


def format_interval(interval: Interval) -> str:
    """Return both ends of an interval in bytes, with one unit if both have the same.

    Example:
        >>> format_interval(Interval(low=2**30, expected=2**30, high=2**31))
        '1 to 2 GiB'
    """
    low, high = show_bytes(interval.low), show_bytes(interval.high)
    unit = high.rpartition(" ")[2]
    return f"{low.removesuffix(f' {unit}')} to {high}"


def format_state_bytes(bytes_per_parameter: float, zero: str = "0") -> str:
    """Return state bytes per parameter with two decimals, `zero` for none.

    Example:
        >>> format_state_bytes(0.0), format_state_bytes(0.001), format_state_bytes(8)
        ('0', '< 0.01', '8.00')
    """
    if bytes_per_parameter == 0:
        return zero
    return "< 0.01" if bytes_per_parameter < 0.01 else f"{bytes_per_parameter:.2f}"


def format_sentence(text: str) -> str:
    """Return a text with a capital letter and a final period; a first word with a dot or an underscore stays as it is.

    Example:
        >>> format_sentence("8-bit state is smaller"), format_sentence("state is smaller.")
        ('8-bit state is smaller.', 'State is smaller.')
        >>> format_sentence("torch.optim.AdamW conforms")
        'torch.optim.AdamW conforms.'
    """
    text = capitalize(text.strip())
    return text if not text or text.endswith((".", "!", "?", "”")) else f"{text}."


def capitalize(text: str) -> str:
    """Return a text with a capital letter, unless its first word is a name from code."""
    first_word = text.split(" ", 1)[0].rstrip(".,:;")
    return text if "." in first_word or "_" in first_word else f"{text[:1].upper()}{text[1:]}"


def describe_choices(fact: Fact) -> dict[str, str]:
    """Return the texts of a derived fact's choices: their meanings, because their ids are not options.

    Returns:
        Texts by choice; empty for options and for facts whose choices are names.
    """
    meanings = {} if fact.flag or fact.values_from else fact.values or {}
    is_flag = fact.type == "flag"
    return {
        value: meaning if is_flag else f"“{meaning}”"
        for value, meaning in meanings.items() if meaning.lower() != value
    }  # fmt: skip


def format_choice(fact: Fact, value: str) -> str:
    """Return a choice; of a derived fact, with its meaning in parentheses."""
    meaning = describe_choices(fact).get(value, "").strip("“”")
    return meaning if fact.type == "flag" and meaning else f"{value} ({meaning})" if meaning else value


def format_flag(catalog: Catalog, fact: str) -> str:
    """Return the option that sets a fact."""
    declared = catalog.facts.get(fact)
    flag = None if declared is None else declared.flag
    return flag or f"--{fact.replace('_', '-')}"


def format_option(catalog: Catalog, fact: str, value: object) -> str:
    """Return the option for a fact and its value: `--micro-batch 4`, `--offload`, `without --offload`."""
    flag = format_flag(catalog, fact)
    if value is True or value == "true":
        return flag
    return f"without {flag}" if value is False or value == "false" else f"{flag} {value}"


def format_change(catalog: Catalog, fact: str, condition: str, values: Sequence[str]) -> str:
    """Return a changed option with a value that can be typed: `--params 1.14B or more`, `--shard zero1 or zero2`.

    Args:
        condition: Condition on the new value: `>= 1.14B`, `<= 24GiB`, `[1 .. 8]`, `known`, or the values.
        values: Values that meet it: the end or ends of a range, or all choices.
    """
    first = format_option(catalog, fact, values[0])
    if condition.startswith("["):
        return f"{first} to {values[-1]}"
    if condition == "known":
        return f"{first} (any value)"
    if condition.startswith(("<", ">")):
        return f"{first} or {'less' if condition[0] == '<' else 'more'}"
    return " or ".join(filter(None, [", ".join([first, *values[1:-1]]), *values[1:][-1:]]))


def format_options(catalog: Catalog, facts: Mapping[str, object]) -> str:
    """Return the options for several facts, as on a command line."""
    return " ".join(format_option(catalog, fact, value) for fact, value in facts.items())


def list_assumptions(situation: Situation, catalog: Catalog, only: Collection[str] | None = None) -> list[str]:
    """Return the options of the assumed facts with their values; of `only` these, where it is not None."""
    return [
        format_option(catalog, fact, format_fact(situation, fact, catalog))
        for fact in situation.assumed
        if only is None or fact in only
    ]


def find_gpu_id(situation: Situation, catalog: Catalog) -> str | None:
    """Return the id of the GPU that `--gpu` specified; None without one."""
    names = (situation.gpu,) if "gpu" in situation.stated else ()
    return next((gpu.id for gpu in catalog.gpus if gpu.name in names or gpu.series in names), None)


def list_implied_facts(situation: Situation, catalog: Catalog) -> set[str]:
    """Return the stated facts that follow from the name of a GPU or the shape of a network."""
    of_gpu = {name for name, fact in catalog.facts.items() if fact.derived == "gpu"}
    of_gpu |= {"vram_bytes"} if any(gpu.name == situation.gpu for gpu in catalog.gpus) else set()
    return of_gpu | (SHAPE_FACTS if "shape" in situation.stated else set())


def format_fact(situation: Situation, fact: str, catalog: Catalog) -> str:
    """Return a fact's value in a situation as its option accepts it, `unknown` for None."""
    value = getattr(situation, fact)
    if value is None:
        return "unknown"
    if type(value) is int:
        return write_end(catalog.facts[fact], value, value, 1, at_low=True) or str(value)
    return str(value).lower()


def describe_variant(implementation: Implementation, name: str) -> str:
    """Return a variant with its requirements: `fused (requires cpu or cuda, torch>=2.12 on cuda)`."""
    requirement = implementation.variant_requirements.get(name)
    if requirement is None:
        return name
    versions = (f"{implementation.package}>={minimum} on {kind}" for kind, minimum in requirement.min_version.items())
    package = requirement.package and f"the package {requirement.package}"
    required = ", ".join(filter(None, [" or ".join(requirement.devices), *versions, package]))
    parts = [f"requires {required}"] if required else []
    excluded = [label for shard, label in SHARDING_LABELS.items() if shard not in requirement.sharding]
    parts += [f"not with {' or '.join(excluded)}"] if requirement.sharding and excluded else []
    return f"{name} ({'; '.join(parts)})"
