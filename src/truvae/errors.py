"""The exceptions for a user's mistakes, and for processes that fail each other."""


class InputError(ValueError):
    """A mistake in the input; the message is one line: what is wrong, and what would be right.

    >>> print(InputError("damaged:\\n\\t no end"))
    damaged: no end
    """

    def __init__(self, message: object) -> None:
        # Libraries, and names in damaged files, may bring line breaks.
        super().__init__(" ".join(line.strip() for line in str(message).splitlines()))


class RankError(RuntimeError):
    """Another process of a job has ended, or does not answer; the message is one line."""


__all__ = ["InputError", "RankError"]
