"""Every error that a user can cause.

    JackpotError (a ValueError)
    ├── ConfigError      invalid flags, settings or recipes, or an invalid combination
    ├── BaseError        the base cannot be found, built or masked
    │   └── BaseMismatchError   a base was found, but not the right one
    ├── DataError        a data set is missing, unreadable or does not fit the base
    ├── ArtifactError    an artifact is damaged, edited, incomplete or too new
    ├── HubError         the Hugging Face Hub refused the request or could not be reached
    ├── ServingError     a JackpotModel has no such adapter, or cannot do this while it is serving
    └── TrainingError    a run cannot continue (the loss is NaN, ranks disagree)
        └── RunInterrupted      a signal stopped the run, which can be resumed

Each message is one or two sentences for the user: what was wrong, what was expected, what to do.
"""


class JackpotError(ValueError):
    """Base class of every error that timm_jackpot raises on purpose."""


class ConfigError(JackpotError):
    pass


class BaseError(JackpotError):
    pass


class BaseMismatchError(BaseError):
    pass


class DataError(JackpotError):
    pass


class ArtifactError(JackpotError):
    pass


class HubError(JackpotError):
    pass


class ServingError(JackpotError):
    pass


class TrainingError(JackpotError):
    pass


class RunInterrupted(TrainingError):
    """A signal stopped a run after a step; its state is saved on disk."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


def first_line(error: Exception) -> str:
    """What a library's error says, short enough to be quoted."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
