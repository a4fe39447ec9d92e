"""Values and texts from outside, as a message may show them."""

_LONGEST = 60
_CONTROLS = {"\n", "\t"}


def shown(value: object) -> str:
    """`value` as Python writes it, cut short if it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write integers of thousands of digits
        return f"an integer of {value.bit_length()} bits" if isinstance(value, int) else "a value"
    except RecursionError:
        return "a value that is nested too deeply"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def printable(text: str) -> str:
    """`text` with what a terminal would obey, rather than show, as Python escapes it.

    Names and other libraries' messages come from files, and a file can be anybody's: control
    characters move the cursor, set the window's title, or make text look like another's, and so do
    marks that reverse the direction of writing. Line ends and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in _CONTROLS else repr(c)[1:-1] for c in text
    )
