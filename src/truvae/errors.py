"""The exception for a user's mistakes."""


class InputError(ValueError):
    """A mistake in the input; the message is one line: what is wrong, and what would be right."""


__all__ = ["InputError"]
