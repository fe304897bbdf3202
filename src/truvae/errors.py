"""The exceptions for a user's mistakes, and for processes that fail each other."""


class InputError(ValueError):
    """A mistake in the input; the message is one line: what is wrong, and what would be right."""


class RankError(RuntimeError):
    """Another process of a job has ended, or does not answer; the message is one line."""


__all__ = ["InputError", "RankError"]
